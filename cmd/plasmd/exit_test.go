package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/plasm/receipt"
	"github.com/phaseboot/phaseboot/plasm/wasmtest"
)

// TestEveryClassOfErrorHasItsExitCode causes each class of error with each verb that has it, with and
// without --json. The exit code is that of the README's table, and with --json stderr ends in one object.
func TestEveryClassOfErrorHasItsExitCode(t *testing.T) {
	t.Chdir(t.TempDir())
	bomb := wasmtest.Bombs()[0].Module
	for name, data := range map[string][]byte{"empty": nil, "text": []byte("text"), "bomb.wasm": bomb, "cut.wasm": bomb[:20]} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir("folder", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("plasmd", "run", "--receipt", "receipt.json", "bomb.wasm").Run(); err == nil {
		t.Fatal("a bomb ran")
	}
	data, err := os.ReadFile("receipt.json")
	if err != nil {
		t.Fatal(err)
	}
	signed, err := receipt.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	forged := strings.Replace(signed.Line(), `"compile_ms":`, `"compile_ms":1`, 1)
	if err := errors.Join(os.WriteFile("forged.json", []byte(forged), 0o600), os.WriteFile("cut.json", data[:50], 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		code int
		args string
	}{
		{"job that fails", 1, "run bomb.wasm"},
		{"unknown verb", 2, "rum bomb.wasm"},
		{"unknown flag", 2, "run --memry 1M bomb.wasm"},
		{"no job", 2, "run"},
		{"two jobs", 2, "run --release r.json bomb.wasm"},
		{"limit out of range", 2, "run --memory 1K bomb.wasm"},
		{"folder for a job", 2, "run folder"},
		{"folder for a receipt", 2, "verify folder"},
		{"device for a job", 2, "run /dev/zero"},
		{"missing job", 4, "run no.wasm"},
		{"missing release", 4, "run --release no.json"},
		{"missing key", 4, "run --key no.key bomb.wasm"},
		{"missing folder of the receipt", 4, "run --receipt no/r.json bomb.wasm"},
		{"missing receipt", 4, "verify no.json"},
		{"empty job", 5, "run empty"},
		{"text as a job", 5, "run text"},
		{"job cut short", 5, "run cut.wasm"},
		{"text as a release", 5, "run --release text"},
		{"text as a key", 5, "run --key text bomb.wasm"},
		{"receipt cut short", 5, "verify cut.json"},
		{"forged receipt", 3, "verify forged.json"},

		{"order that no submitter signs", 2, "submit --all bomb.wasm"},
		{"two jobs to submit", 2, "submit --role job/a.wasm bomb.wasm"},
		{"no job to submit", 2, "submit"},
		{"unknown grant", 2, "submit --grant network bomb.wasm"},
		{"machine without a peer ID", 2, "list --machine 192.0.2.1"},
		{"ID that is none", 2, "show xyz"},
		{"text as a key of a submitter", 5, "submit --all --key text bomb.wasm"},
		{"text as a job to submit", 5, "submit text"},
		{"text as a root", 5, "top --all --root text"},
		{"missing job to submit", 4, "submit no.wasm"},
		{"missing input", 4, "submit --input no.txt bomb.wasm"},
		{"missing list of machines", 4, "top --machines no.txt"},
		{"machine that is off", 4, "list --machine /ip4/127.0.0.1/tcp/1/p2p/12D3KooWRQYxvmt7VyfsDzi3oQfqT5Roqm7M7Uom9xwbmYb5Ktrj"},
		{"submit without a daemon", 4, "submit --socket no.sock bomb.wasm"},
		{"list without a daemon", 4, "list --socket no.sock"},
		{"top without a daemon", 4, "top --socket no.sock"},
		{"show without a daemon", 4, "show --socket no.sock 01234567"},
		{"logs without a daemon", 4, "logs --socket no.sock 01234567"},
		{"cancel without a daemon", 4, "cancel --socket no.sock 01234567"},
		{"receipt without a daemon", 4, "receipt --socket no.sock 01234567"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, asJSON := range []bool{false, true} {
				args := strings.Fields(c.args)
				if asJSON {
					args = append([]string{"--json"}, args...)
				}
				cmd := exec.Command("plasmd", args...)
				var stderr strings.Builder
				cmd.Stderr = &stderr
				_ = cmd.Run() // the exit code is checked
				if code := cmd.ProcessState.ExitCode(); code != c.code {
					t.Errorf("%q: exit code %d, want %d\n%s", args, code, c.code, &stderr)
				}
				lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
				var got struct {
					Error string `json:"error"`
					Code  int    `json:"exit_code"`
				}
				if err := json.Unmarshal([]byte(lines[len(lines)-1]), &got); (err == nil) != asJSON || asJSON && (got.Code != c.code || got.Error == "") {
					t.Errorf("%q: %+v, %v in\n%s", args, got, err, &stderr)
				}
			}
		})
	}
}
