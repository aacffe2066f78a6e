package plasm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A grantedRun is one run of testdata/granted.
type grantedRun struct {
	outcome        Outcome
	stdout, stderr string
}

func runGranted(t *testing.T, what string, spec Spec, std IO) grantedRun {
	t.Helper()
	module := built(t, "./testdata/granted")
	digest := sha256.Sum256(module)
	job := Job{Name: "granted", Module: module, SHA256: hex.EncodeToString(digest[:])}
	var stdout, stderr bytes.Buffer
	std.Stdout, std.Stderr = &stdout, &stderr
	spec.Args = append([]string{what}, spec.Args...)
	spec.Limits = longLimits()
	if spec.Engine == "" {
		spec.Engine = EngineInterpreter
	}
	o, err := engine.Run(t.Context(), job, spec, std)
	if err != nil {
		t.Fatal(err)
	}
	return grantedRun{o, stdout.String(), stderr.String()}
}

func sha(s string) string {
	digest := sha256.Sum256([]byte(s))
	return hex.EncodeToString(digest[:])
}

func TestJobGetsItsArgumentsAndEnvironment(t *testing.T) {
	r := runGranted(t, "arguments", Spec{Args: []string{"-n", "two words", "ä"}}, IO{})
	if want := `["granted" "arguments" "-n" "two words" "ä"]` + "\n"; r.stdout != want {
		t.Errorf("%q, want %q", r.stdout, want)
	}
	r = runGranted(t, "environment", Spec{Env: map[string]string{"LANG": "C", "EMPTY": ""}}, IO{})
	if want := `["EMPTY=" "LANG=C"]` + "\n"; r.stdout != want {
		t.Errorf("%q, want %q", r.stdout, want)
	}
}

func TestJobReadsStdinWithTheGrantOnly(t *testing.T) {
	input := strings.Repeat("abc", 20_000)
	with := Spec{Grants: Grants{Stdin: true}}
	r := runGranted(t, "stdin", with, IO{Stdin: strings.NewReader(input)})
	if !r.outcome.OK() || r.stdout != strings.Repeat("cba", 20_000)+"\n" || r.stderr != "60000 bytes\n" {
		t.Errorf("%+v, %d bytes, %q", r.outcome, len(r.stdout), r.stderr)
	}
	if r.outcome.InputSHA256 != sha(input) || r.outcome.InputLength != int64(len(input)) {
		t.Errorf("input %d bytes, %s", r.outcome.InputLength, r.outcome.InputSHA256)
	}
	r = runGranted(t, "stdin", Spec{}, IO{Stdin: strings.NewReader(input)})
	if r.stdout != "\n" || r.outcome.InputSHA256 != sha("") || r.outcome.InputLength != 0 {
		t.Errorf("without the grant: %q, %+v", r.stdout, r.outcome)
	}

	// A job that reads a part: the digest covers that part, and the run does not wait for the rest.
	endless, writer := io.Pipe()
	go func() { _, _ = writer.Write([]byte("xyz")) }()
	defer writer.Close()
	r = runGranted(t, "first byte", with, IO{Stdin: endless})
	if !r.outcome.OK() || r.stdout != "\"x\"\n" || r.outcome.InputSHA256 != sha("x") || r.outcome.InputLength != 1 {
		t.Errorf("%q, %+v", r.stdout, r.outcome)
	}
}

func TestStdoutAndStderrAreApart(t *testing.T) {
	r := runGranted(t, "stdin", Spec{Grants: Grants{Stdin: true}}, IO{Stdin: strings.NewReader("abc")})
	o := r.outcome
	if r.stdout != "cba\n" || r.stderr != "3 bytes\n" {
		t.Errorf("stdout %q, stderr %q", r.stdout, r.stderr)
	}
	if o.Stdout != (Output{sha("cba\n"), 4, false}) || o.Stderr != (Output{sha("3 bytes\n"), 8, false}) || o.Output != (Output{sha("cba\n3 bytes\n"), 12, false}) {
		t.Errorf("stdout %+v, stderr %+v, both %+v", o.Stdout, o.Stderr, o.Output)
	}
}

// TestOutputLimitIsForBoth: the limit ends the job with both engines.
func TestOutputLimitIsForBoth(t *testing.T) {
	for _, name := range []string{EngineInterpreter, EngineCompiler} {
		r := runGranted(t, "flood both", Spec{Engine: name}, IO{})
		o := r.outcome
		if o.Reason != ReasonOutput || o.Stdout.Length+o.Stderr.Length != longLimits().Output || !o.Output.Truncated || o.Stdout.Truncated == o.Stderr.Truncated {
			t.Errorf("%s: %+v", name, o)
		}
	}
}

// TestRunsWithoutClockAndRandomAreEqual: the clock and the random numbers are fixed without the grant, and
// real with it, with both engines.
func TestRunsWithoutClockAndRandomAreEqual(t *testing.T) {
	granted := Spec{Grants: Grants{Clock: true, Random: true}}
	for _, what := range []string{"clock", "random"} {
		first := runGranted(t, what, Spec{}, IO{})
		second := runGranted(t, what, Spec{Engine: EngineCompiler}, IO{})
		if !first.outcome.OK() || first.stdout != second.stdout || first.outcome.Stdout != second.outcome.Stdout {
			t.Errorf("%s: %q with the interpreter, %q with the compiler", what, first.stdout, second.stdout)
		}
		if got := runGranted(t, what, granted, IO{}); !got.outcome.OK() || got.stdout == first.stdout {
			t.Errorf("%s: %q with the grant", what, got.stdout)
		}
	}
	if !(Spec{}).Deterministic() || granted.Deterministic() {
		t.Error("Deterministic differs from the grants")
	}
}

func TestScratchFolderIsAFileSystem(t *testing.T) {
	for _, name := range []string{EngineInterpreter, EngineCompiler} {
		r := runGranted(t, "scratch", Spec{Engine: name, Grants: Grants{Scratch: 1 << 20}}, IO{})
		if want := "hello, scratch\ny 4097 -rw------- 2022-01-01\n"; !r.outcome.OK() || r.stdout != want {
			t.Errorf("%s: %+v: %q, want %q\n%s", name, r.outcome, r.stdout, want, r.stderr)
		}
	}
}

func TestScratchFolderIsBounded(t *testing.T) {
	r := runGranted(t, "fill", Spec{Grants: Grants{Scratch: 1 << 20}}, IO{})
	if want := strings.Repeat("1048576\n", 3); r.outcome.Reason != ReasonScratch || r.stdout != want {
		t.Errorf("%+v: %q, want %q", r.outcome, r.stdout, want)
	}
}

func TestArtifactsAreReadOnly(t *testing.T) {
	dir := t.TempDir()
	open := func(role string) (*os.File, error) {
		name := filepath.Join(dir, strings.ReplaceAll(role, "/", "-"))
		if role != "missing" {
			_ = os.WriteFile(name, []byte("content of "+role), 0o600)
		}
		return os.Open(name)
	}
	spec := Spec{Grants: Grants{Artifacts: []string{"rootfs", "job/other.wasm"}}}
	r := runGranted(t, "artifacts", spec, IO{Artifacts: open})
	want := "/artifacts/job/other.wasm: \"content of job/other.wasm\"\n/artifacts/rootfs: \"content of rootfs\"\n"
	if !r.outcome.OK() || r.stdout != want {
		t.Errorf("%+v: %q, want %q\n%s", r.outcome, r.stdout, want, r.stderr)
	}
	for _, std := range []IO{{Artifacts: open}, {}} {
		spec := Spec{Grants: Grants{Artifacts: []string{"missing"}}, Limits: tight}
		if _, err := engine.Run(t.Context(), Job{Name: "x", Module: hand{}.bytes()}, spec, std); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a missing artifact: %v", err)
		}
	}
}
