package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A class is a class of error in the README's table of exit codes, with arguments of each verb that
// cause it; "" if a verb has no such error.
type class struct {
	name        string
	code        int
	fetch, seed string
	text        string // part of the output
}

// TestEveryClassOfErrorHasItsExitCode causes each class of error with each verb, with and without
// --json. The exit code is that of the table, and with --json stderr ends in one object.
func TestEveryClassOfErrorHasItsExitCode(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := writeRoot(context.Background(), "."); err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile("root.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"empty.json": nil, "garbled.json": []byte("{"), "cut.json": root[:len(root)/2], "forged.json": forged(t, root), "file": []byte("x"),
	} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir("cache", 0o700), os.Mkdir("folder", 0o700)); err != nil {
		t.Fatal(err)
	}
	const noSource = " --mode private --mirror http://127.0.0.1:1 --timeout 1s"
	for _, c := range []class{
		{"help", 0, "--help", "--help", "Usage:"},
		{"unknown flag", 2, "--rot x", "--rot x", "unknown flag: --rot (did you mean"},
		{"flag without a value", 2, "--root", "--root", "flag needs an argument"},
		{"missing flag", 2, "--root root.json", "--root root.json", ": missing; name"},
		{"argument", 2, "--root root.json --out out x", "--root root.json --cache cache x", "unexpected argument"},
		{"unknown mode", 2, "--root root.json --out out --mode x", "--root root.json --cache cache --mode x", "--mode"},
		{"unknown architecture", 2, "--root root.json --out out --arch x", "--root root.json --cache cache --arch x", "--arch"},
		{"folder for a file", 2, "--root folder --out out", "--root folder --cache cache", "is a directory"},
		{"file for a folder", 2, "--root root.json --out out --cache file", "--root root.json --cache file", "is not a folder"},
		{"device for a file", 2, "--root /dev/null --out out", "--root /dev/null --cache cache", "device"},
		{"missing file", 4, "--root no.json --out out", "--root no.json --cache cache", "file does not exist; check the path"},
		{"missing folder", 4, "--root root.json --out no/out", "--root root.json --cache no", "no"},
		{"empty file", 5, "--root empty.json --out out", "--root empty.json --cache cache", "empty"},
		{"garbled file", 5, "--root garbled.json --out out", "--root garbled.json --cache cache", "not JSON"},
		{"truncated file", 5, "--root cut.json --out out", "--root cut.json --cache cache", "not JSON"},
		{"forged root", 3, "--root forged.json --out out" + noSource, "--root forged.json --cache cache", "signed by 0 of 1 required keys"},
		{"no source", 4, "--root root.json --out out" + noSource, "", "refused"},
		{"nothing in the cache", 4, "", "--root root.json --cache cache", ""},
	} {
		for verb, line := range map[string]string{"fetch": c.fetch, "seed": c.seed} {
			if line == "" {
				continue
			}
			t.Run(c.name+"/"+verb, func(t *testing.T) {
				args := append([]string{verb}, strings.Fields(line)...)
				code, output := runPhaseBoot(t, nil, args...)
				if code != c.code || !strings.Contains(output, c.text) {
					t.Errorf("exit code %d, want %d: …%s… in\n%s", code, c.code, c.text, output)
				}
				if c.code == 0 || c.name == "flag without a value" {
					return
				}
				code, output = runPhaseBoot(t, nil, append(args[:1:1], append([]string{"--json"}, args[1:]...)...)...)
				lines := strings.Split(strings.TrimSpace(output), "\n")
				var got struct {
					Error string `json:"error"`
					Code  int    `json:"exit_code"`
				}
				if err := json.Unmarshal([]byte(lines[len(lines)-1]), &got); err != nil || got.Code != c.code || code != c.code || got.Error == "" {
					t.Errorf("with --json: exit code %d, %+v, %v in\n%s", code, got, err, output)
				}
			})
		}
	}
}

// forged returns root with the signature of another root.
func forged(t *testing.T, root []byte) []byte {
	t.Helper()
	other := filepath.Join(t.TempDir(), "other")
	if err := errors.Join(os.Mkdir(other, 0o700), writeRoot(context.Background(), other)); err != nil {
		t.Fatal(err)
	}
	otherRoot, err := os.ReadFile(filepath.Join(other, "root.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc, otherDoc struct {
		Signed     json.RawMessage `json:"signed"`
		Signatures []struct {
			KeyID string `json:"keyid"`
			Sig   string `json:"sig"`
		} `json:"signatures"`
	}
	if err := errors.Join(json.Unmarshal(root, &doc), json.Unmarshal(otherRoot, &otherDoc)); err != nil {
		t.Fatal(err)
	}
	return bytes.Replace(root, []byte(doc.Signatures[0].Sig), []byte(otherDoc.Signatures[0].Sig), 1)
}

// runPhaseBoot runs phase-boot and returns its exit code and its output. It calls interrupt, if not
// nil, after the first byte on stderr.
func runPhaseBoot(t *testing.T, interrupt func(*os.Process) error, args ...string) (int, string) {
	t.Helper()
	cmd := exec.Command("phase-boot", args...)
	var stdout, messages bytes.Buffer
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if interrupt != nil {
		if _, err := io.CopyN(&messages, stderr, 1); err != nil {
			t.Fatal(err)
		}
		if err := interrupt(cmd.Process); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.Copy(&messages, stderr); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // the caller checks the exit code
	return cmd.ProcessState.ExitCode(), stdout.String() + messages.String()
}

// TestInterruptHasItsExitCode interrupts a search.
func TestInterruptHasItsExitCode(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := writeRoot(context.Background(), "."); err != nil {
		t.Fatal(err)
	}
	code, output := runPhaseBoot(t, func(p *os.Process) error { return p.Signal(syscall.SIGINT) },
		"fetch", "--root", "root.json", "--out", "out", "--mode", "private", "--mirror", "http://127.0.0.1:1", "--timeout", "10m")
	if code != 130 || !strings.Contains(output, "interrupted") {
		t.Errorf("exit code %d, want 130:\n%s", code, output)
	}
}
