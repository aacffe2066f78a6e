package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// daemonLine is what plasmd serve prints on the console of a target when it listens on the network.
var daemonLine = regexp.MustCompile(`\{"socket":"[^\n]*"peer":"([A-Za-z0-9]+)"`)

// operated publishes a release that names an operator, whose key is at path key, and serves it on the LAN.
func (l *lan) operated() (p *published, key string) {
	l.t.Helper()
	p = publication(l.t)
	key = p.at("operator")
	must(l.t, fx.bin("phase-sign"), "key", "generate", "--no-passphrase", "--out", key)
	p.signOwn(l.t, fx.path("artifacts"), operatedRelease, "--submitter", key+".pub=jobs=2,timeout=2m")
	p.serve(l.host())
	return p, key
}

const operatedRelease = "2026.12-operated"

// takesJobs waits until the machine has run the job of its release and its daemon listens. It returns the
// receipt of that job and the peer ID of the machine.
func (m *machine) takesJobs() (receipt []byte, peer string) {
	m.t.Helper()
	m.waitFor([]string{"Linux version", "phase.release=" + operatedRelease, "plasmd: receipt {"}, refused)
	m.waitFor([]string{"Linux version", `"peer":"`, `","listen":[`}, refused)
	text, _ := m.console.since(0)
	line := daemonLine.FindSubmatch(text)
	if line == nil {
		m.t.Fatal("no line of plasmd serve on the console")
	}
	_, rest, _ := bytes.Cut(text, []byte("plasmd: receipt "))
	receipt, _, _ = bytes.Cut(rest, []byte("\n"))
	return append([]byte("plasmd: receipt "), bytes.TrimRight(receipt, "\r")...), string(line[1])
}

// signedRun is what a receipt says of a run.
type signedRun struct {
	Reason    string   `json:"reason"`
	Isolation []string `json:"isolation"`
}

// runOf returns what a receipt, a file or the line of a console, says of its run.
func runOf(t *testing.T, receipt []byte) signedRun {
	t.Helper()
	var statement struct {
		Predicate signedRun `json:"predicate"`
	}
	payload, ok := bytes.CutPrefix(receipt, []byte("plasmd: receipt "))
	if !ok {
		var envelope struct {
			Payload []byte `json:"payload"`
		}
		if err := json.Unmarshal(receipt, &envelope); err != nil {
			t.Fatalf("%v: %s", err, receipt)
		}
		payload = envelope.Payload
	}
	if err := json.NewDecoder(bytes.NewReader(payload)).Decode(&statement); err != nil {
		t.Fatalf("%v: %s", err, receipt)
	}
	return statement.Predicate
}

// onlyReceipt returns the one receipt in a folder.
func onlyReceipt(t *testing.T, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(names) != 1 {
		t.Fatalf("receipts: %q, %v", names, err)
	}
	return names[0]
}

// A machine that has booted takes a job from an operator whom its release names, and from nobody else. The receipts
// of both jobs are those of its release, and no byte of them can be changed. Each job has a control group, namespaces
// and a filter of system calls, and one that takes all memory ends at its limit.
func TestABootedMachineRunsAJobOfItsOperator(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	l.dhcp()
	p, key := l.operated()
	m := l.boot(fx.path("local.img"))
	first, peer := m.takesJobs()
	job, dir := fx.bin("jobs/primes.wasm"), t.TempDir()

	operator := l.host()
	submit := func(key string, more ...string) (string, error) {
		cmd := operator.command(fx.bin("plasmd"), append([]string{"submit", "--all", "--root", p.at("repo/root.json"), "--key", key, job}, more...)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := submit(key, "--receipts", dir, "--", "10000")
	if err != nil || !strings.Contains(out, "1229 primes below 10000") {
		t.Fatalf("%v\n%s", err, out)
	}
	hogged := t.TempDir()
	hog := operator.command(fx.bin("plasmd"), "submit", "--all", "--root", p.at("repo/root.json"), "--key", key, "--receipts", hogged, "--timeout", "2m", fx.bin("jobs/hog.wasm"))
	said, err := hog.CombinedOutput()
	if reason := runOf(t, readFile(t, onlyReceipt(t, hogged))).Reason; err == nil || reason != "memory" {
		t.Errorf("a job that takes all memory: ended by %s, %v\n%s", reason, err, said)
	}
	want := []string{"cgroup", "namespaces", "seccomp"}
	for _, receipt := range [][]byte{first, readFile(t, onlyReceipt(t, dir)), readFile(t, onlyReceipt(t, hogged))} {
		if run := runOf(t, receipt); !slices.Equal(run.Isolation, want) {
			t.Errorf("a job that ended by %s had %q, want %q", run.Reason, run.Isolation, want)
		}
	}
	if out, err := submit(fx.path("keys/other")); err == nil || !strings.Contains(out, "submitter") {
		t.Errorf("a job of somebody else: %v\n%s", err, out)
	}

	console := filepath.Join(dir, "console.txt")
	if err := os.WriteFile(console, append(first, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{onlyReceipt(t, dir), console} {
		verify := []string{"--json", "verify", "--root", p.at("repo/root.json"), "--release", p.at("own.json"), name}
		var got struct {
			Trusted bool `json:"trusted_release"`
		}
		if err := json.Unmarshal(must(t, fx.bin("plasmd"), verify...), &got); err != nil || !got.Trusted {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		data := readFile(t, name)
		data[len(data)/2] ^= 1
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := operator.command(fx.bin("plasmd"), verify...).CombinedOutput(); err == nil {
			t.Errorf("a changed receipt is accepted: %s", out)
		}
	}

	// the machine is off: it is named, and the exit code is not 0
	m.powerOff()
	lost := operator.command(fx.bin("plasmd"), "submit", "--machine", "/ip4/"+m.address()+"/tcp/4002/p2p/"+peer, "--key", key, job)
	if out, err := lost.CombinedOutput(); err == nil || !strings.Contains(string(out), m.address()+":4002: no answer") {
		t.Errorf("a machine that is off: %v\n%s", err, out)
	}
}

// address returns the IPv4 address of the boot.
func (m *machine) address() string {
	m.t.Helper()
	text, _ := m.console.since(0)
	found := regexp.MustCompile(`\] network: \S+ (10\.55\.0\.\d+)/24`).FindSubmatch(text)
	if found == nil {
		m.t.Fatal("no address on the console")
	}
	return string(found[1])
}
