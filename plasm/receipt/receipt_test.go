package receipt

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/secure-systems-lab/go-securesystemslib/signerverifier"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/phaseboot/phaseboot/internal/envelope"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/plasm"
)

var update = flag.Bool("update", false, "write the golden files")

// testKey is a public test key.
func testKey() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte("phaseboot: a seed for tests only"))
}

func testPublic() ed25519.PublicKey { return testKey().Public().(ed25519.PublicKey) }

func otherPublic() ed25519.PublicKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32)).Public().(ed25519.PublicKey)
}

// exampleFacts has a value in each field, among them an argument that JSON and a console must not misread.
func exampleFacts(t testing.TB) Facts {
	t.Helper()
	job, err := plasm.NewJob(context.Background(), "hello.wasm", []byte("\x00asm\x01\x00\x00\x00"))
	if err != nil {
		t.Fatal(err)
	}
	return Facts{
		ID: strings.Repeat("1d", 32), Job: job,
		Spec: plasm.Spec{
			Args: []string{"-n", "<é \"\x1b[2J\n"}, Env: map[string]string{"LANG": "C", "A": "1"},
			Grants: plasm.Grants{Stdin: true, Scratch: 1 << 20, Artifacts: []string{"rootfs"}, Clock: true, Random: true},
			Limits: plasm.Limits{Memory: 64 << 20, Timeout: 30 * time.Second, Output: 64 << 10, CPU: time.Minute}, Engine: plasm.EngineCompiler,
		},
		Outcome: plasm.Outcome{
			Started: time.Date(2026, 11, 23, 14, 0, 0, 999, time.FixedZone("", 3600)),
			Wait:    5 * time.Millisecond, Fetch: 4 * time.Millisecond, Compile: 3 * time.Millisecond, Run: 1234 * time.Microsecond,
			MemoryPeak: 65536, CPU: 2 * time.Millisecond, Reason: plasm.ReasonExit, ExitCode: 0, Detail: "exit code 0",
			Stdout: plasm.Output{SHA256: strings.Repeat("ab", 32), Length: 12}, Stderr: plasm.Output{SHA256: emptySHA256, Truncated: true},
			InputSHA256: emptySHA256, Isolation: []string{plasm.IsolationSeccomp}, Engine: plasm.EngineCompiler, EngineVersion: "wazero v1.12.0",
		},
		Submitter: otherPublic(),
		Release:   &manifest.Release{Channel: "stable", Arch: "x86_64", Version: "2026.11.23-demo", Number: 3, Repository: strings.Repeat("0f", 16)},
		Root:      2, Report: strings.Repeat("ef", 32),
	}
}

func sign(t testing.TB, f Facts) Signed {
	t.Helper()
	s, err := New(f).Sign(testKey(), false)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func example(t testing.TB) Signed { return sign(t, exampleFacts(t)) }

var compare = cmp.AllowUnexported(Signed{})

// Other programs verify the bytes of the golden files.
func TestAReceiptHasTheGoldenBytes(t *testing.T) {
	for name, got := range map[string]string{
		"testdata/receipt.json": string(example(t).Bytes()) + "\n",
		"testdata/receipt.line": example(t).Line() + "\n",
	} {
		if *update {
			if err := os.WriteFile(name, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name)
		if err != nil || got != string(want) {
			t.Errorf("%s: %v\ngot  %s\nwant %s", name, err, got, want)
		}
		s, err := Parse(want)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(example(t), s, compare); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if err := s.Verify(testPublic()); err != nil {
			t.Error(err)
		}
	}
}

func TestALineIsReadFromAConsole(t *testing.T) {
	want := example(t)
	for _, before := range []string{"", "[    7.399502] plasmd[104]: ", "Nov 23 14:00:00 host plasmd[1]: "} {
		s, err := Parse([]byte(before + want.Line() + "\r\n"))
		if err != nil || s.Verify(testPublic()) != nil || !bytes.Equal(s.Bytes(), want.Bytes()) {
			t.Errorf("%q: %v", before, err)
		}
	}
	if line := want.Line(); strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) || !strings.HasPrefix(line, "plasmd: receipt {") {
		t.Errorf("%q", line)
	}
}

func TestAttackAReceiptWithOneChangedByte(t *testing.T) {
	s := example(t)
	for form, good := range map[string]string{"envelope": string(s.Bytes()) + "\n", "line": s.Line() + "\n"} {
		for i := range good {
			data := []byte(good)
			if data[i] = []byte{good[i] ^ 1, good[i] ^ 0x20, ' ', '0'}[i%4]; string(data) == good {
				data[i] ^= 2
			}
			changed, err := Parse(data)
			if err == nil {
				err = changed.Verify(nil)
			}
			if !errors.Is(err, manifest.ErrSignature) && !errors.Is(err, manifest.ErrMalformed) {
				t.Errorf("%s: byte %d as %q: %v", form, i, data[i], err)
			}
		}
	}
}

// An envelope without the ID of its key, which others look for, is not one that a machine wrote.
func TestAnEnvelopeNamesItsKey(t *testing.T) {
	s := example(t)
	data := bytes.Replace(s.Bytes(), []byte(manifest.KeyID(testPublic())), nil, 1)
	got, err := Parse(data)
	if err == nil {
		err = got.Verify(nil)
	}
	if !errors.Is(err, manifest.ErrSignature) {
		t.Errorf("%v for %s", err, data)
	}
}

func TestEveryFieldIsSigned(t *testing.T) {
	for name, edit := range map[string]func(*Receipt){
		"stdout":         func(r *Receipt) { r.Subject[0].Digest.SHA256 = emptySHA256 },
		"length":         func(r *Receipt) { r.Subject[0].Annotations.Length++ },
		"truncated":      func(r *Receipt) { r.Subject[1].Annotations.Truncated = false },
		"id":             func(r *Receipt) { r.Run.ID = "" },
		"name":           func(r *Receipt) { r.Run.Name = "x" },
		"module CID":     func(r *Receipt) { r.Run.Module.CID = "" },
		"module sha256":  func(r *Receipt) { r.Run.Module.SHA256 = emptySHA256 },
		"module length":  func(r *Receipt) { r.Run.Module.Length++ },
		"argument":       func(r *Receipt) { r.Run.Spec.Args = nil },
		"grant":          func(r *Receipt) { r.Run.Spec.Grants.Clock = false },
		"limit":          func(r *Receipt) { r.Run.Spec.Limits.Memory *= 2 },
		"input":          func(r *Receipt) { r.Run.Input.Length++ },
		"isolation":      func(r *Receipt) { r.Run.Isolation = nil },
		"engine":         func(r *Receipt) { r.Run.Engine.Version = "2" },
		"started":        func(r *Receipt) { r.Run.Started = r.Run.Started.Add(time.Second) },
		"duration":       func(r *Receipt) { r.Run.Durations.Run = 0 },
		"memory":         func(r *Receipt) { r.Run.MemoryPeak = 0 },
		"CPU":            func(r *Receipt) { r.Run.CPU = 0 },
		"reason":         func(r *Receipt) { r.Run.Reason = plasm.ReasonTrap },
		"exit code":      func(r *Receipt) { r.Run.ExitCode = 1 },
		"submitter":      func(r *Receipt) { r.Run.Submitter = "" },
		"release":        func(r *Receipt) { r.Run.Release.Version = "2" },
		"role version":   func(r *Receipt) { r.Run.Release.Number++ },
		"root version":   func(r *Receipt) { r.Run.Release.Root++ },
		"release absent": func(r *Receipt) { r.Run.Release = nil },
		"report":         func(r *Receipt) { r.Run.Report = "" },
		"machine":        func(r *Receipt) { r.Run.Machine.Key = hex.EncodeToString(otherPublic()) },
		"ephemeral":      func(r *Receipt) { r.Run.Machine.Ephemeral = true },
	} {
		t.Run(name, func(t *testing.T) {
			s := example(t)
			edit(&s.Receipt)
			payload, err := envelope.Canonical(s.Receipt)
			if err != nil || bytes.Equal(payload, s.envelope.Payload) {
				t.Fatalf("the edit changes nothing, %v", err)
			}
			s.envelope.Payload = payload
			again, err := Parse(s.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			if err := again.Verify(nil); !errors.Is(err, manifest.ErrSignature) {
				t.Errorf("got %v, want manifest.ErrSignature", err)
			}
		})
	}
}

func TestAReceiptOfAnotherMachineIsRefused(t *testing.T) {
	if err := example(t).Verify(otherPublic()); !errors.Is(err, manifest.ErrSignature) || !strings.Contains(err.Error(), "signed by machine") {
		t.Errorf("got %v", err)
	}
}

// signAs signs a payload with the key of the machine, as a payload of any type.
func signAs(t testing.TB, payloadType string, payload []byte) envelope.Envelope {
	t.Helper()
	signer, err := signature.LoadSigner(testKey(), crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	e, err := envelope.Sign(t.Context(), payloadType, payload, signer, testPublic())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// The key of the machine may sign other documents: none of them is a receipt.
func TestAttackAnotherDocumentOfTheSameKey(t *testing.T) {
	payload := example(t).envelope.Payload
	job := signAs(t, "application/vnd.phaseboot.job+json", payload)
	if _, err := Parse(job.Bytes()); !errors.Is(err, manifest.ErrSignature) || !strings.Contains(err.Error(), "payload of type") {
		t.Errorf("an order: %v", err)
	}
	job.Type = envelope.InToto // with the type renamed beside the signature
	s, err := Parse(job.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{string(s.Bytes()), s.Line()} {
		s, err := Parse([]byte(form))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(testPublic()); !errors.Is(err, manifest.ErrSignature) {
			t.Errorf("a renamed order: %v", err)
		}
	}
	provenance := bytes.Replace(payload, []byte(PredicateType), []byte("https://slsa.dev/provenance/v1"), 1)
	if _, err := Parse(signAs(t, envelope.InToto, provenance).Bytes()); !errors.Is(err, manifest.ErrMalformed) || !strings.Contains(err.Error(), "predicate of type") {
		t.Errorf("another predicate: %v", err)
	}
}

// The payload is changed before it is signed: the form alone decides.
func TestOnlyWhatAMachineStatesIsAReceipt(t *testing.T) {
	good := string(example(t).envelope.Payload)
	swap := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %s in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	for _, c := range []struct{ name, payload, says string }{
		{"empty", "", "payload"},
		{"null", "null", "canonical"},
		{"an empty object", "{}", "canonical"},
		{"something after it", good + "{}", "canonical"},
		{"a blank", swap(`"exit_code":0`, `"exit_code": 0`), "canonical"},
		{"a field twice", swap(`"exit_code":0`, `"exit_code":1,"exit_code":0`), "canonical"},
		{"another spelling", swap(`"exit_code"`, `"Exit_Code"`), "canonical"},
		{"an unknown field", swap(`"exit_code":0`, `"exit_code":0,"extra":1`), "unknown field"},
		{"an escape", swap(`"stable"`, `"st\u0061ble"`), "canonical"},
		{"raw UTF-8", swap(`\u00e9`, "é"), "canonical"},
		{"a fraction", swap(`"run_ms":1`, `"run_ms":1.5`), "payload"},
		{"a negative number", swap(`"run_ms":1`, `"run_ms":-1`), "negative"},
		{"beyond 2^53", swap(`"run_ms":1`, `"run_ms":9007199254740993`), "2^53"},
		{"no release fields", swap(`"version":"2026.11.23-demo"`, `"version":""`), "empty, or not plain ASCII"},
		{"a reason with a blank", swap(`"reason":"exit"`, `"reason":"ex it"`), "not a word"},
		{"exit without a code", swap(`"exit_code":0`, `"exit_code":-1`), "reason exit without an exit code"},
		{"exit without an engine", swap(`"engine":{"name":"compiler","version":"wazero v1.12.0"},`, ``), "reason exit without an exit code or an engine"},
		{"a code beyond 2^32", swap(`"exit_code":0`, `"exit_code":4294967296`), "exit code 4294967296"},
		{"a local time", swap(`13:00:00Z`, `14:00:00+01:00`), "not a UTC date"},
		{"upper-case hex", swap(strings.Repeat("ab", 32), strings.Repeat("AB", 32)), "lower-case hex"},
		{"a short machine key", swap(`"ed25519":"`, `"ed25519":"00`), "machine"},
		{"no CID", swap(`"cid":"b`, `"cid":"c`), "CID"},
		{"no module", swap(`"sha256":"93a44bbb96c751218e4c00d479e4c14358122a389acca16205b1e4d0dc5f9476"`, `"sha256":""`), "canonical"},
		{"another statement", swap("Statement/v1", "Statement/v0.1"), "statement of type"},
		{"another subject", swap(`"name":"stdout"`, `"name":"x"`), "its subjects are not"},
		{"one subject", good[:strings.Index(good, `"subject":`)] + `"subject":[]}`, "its subjects are not"},
	} {
		e := signAs(t, envelope.InToto, []byte(c.payload))
		if _, err := Parse(e.Bytes()); !errors.Is(err, manifest.ErrMalformed) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %q", c.name, err, c.says)
		}
	}
	line := example(t).Line()
	for name, text := range map[string]string{
		"no signature": line[:strings.LastIndex(line, " ")], "cut": line[:len(line)/2], "a cut signature": line[:len(line)-1],
		"two lines": "x\n" + line, "two newlines": line + "\n\n", "only the mark": Mark, "empty": "", "text": "receipt",
	} {
		if _, err := Parse([]byte(text)); !errors.Is(err, manifest.ErrMalformed) || strings.Contains(err.Error(), "receipt: receipt") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := Parse([]byte(`{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[]}`)); !errors.Is(err, manifest.ErrSignature) {
		t.Errorf("unsigned: %v", err)
	}
	if _, err := Parse(bytes.Repeat([]byte(" "), MaxEnvelope+2)); !errors.Is(err, manifest.ErrMalformed) {
		t.Errorf("too long: %v", err)
	}
}

// A job that never ran has a receipt too, and so has each reason.
func TestEveryEndOfAJobHasAReceipt(t *testing.T) {
	f := exampleFacts(t)
	for _, reason := range []string{
		plasm.ReasonExit, plasm.ReasonTimeout, plasm.ReasonMemory, plasm.ReasonOutput, plasm.ReasonImport, plasm.ReasonTrap,
		plasm.ReasonBounds, plasm.ReasonKilled, "interrupted", "cancelled", "not-run",
	} {
		f.Outcome.Reason = reason
		if s, err := Parse(sign(t, f).Bytes()); err != nil || s.Verify(testPublic()) != nil {
			t.Errorf("%s: %v", reason, err)
		}
	}
	for _, f := range []Facts{
		{Job: plasm.Job{Name: "x"}, Outcome: plasm.Outcome{Reason: "not-run", ExitCode: plasm.NoExitCode}},
		{Job: plasm.Job{Name: "bad \xff"}, Spec: plasm.DefaultSpec(), Outcome: plasm.Outcome{Reason: "cancelled", ExitCode: plasm.NoExitCode, Wait: time.Second}},
	} {
		s, err := Parse([]byte(sign(t, f).Line()))
		if err != nil || s.Verify(testPublic()) != nil || s.Output(Stdout).SHA256 != emptySHA256 {
			t.Errorf("%+v: %v", s, err)
		}
	}
	f = exampleFacts(t)
	f.Outcome.Reason = "not a reason"
	if _, err := New(f).Sign(testKey(), false); !errors.Is(err, manifest.ErrMalformed) {
		t.Errorf("another reason: %v", err)
	}
}

// The largest arguments that a job may have fit, in their longest form in JSON.
func TestTheLargestSpecHasAReceipt(t *testing.T) {
	f := exampleFacts(t)
	f.Spec.Args, f.Spec.Env = []string{strings.Repeat("\x01", 32<<10-1)}, nil
	if err := f.Spec.Check(); err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(sign(t, f).Bytes()); err != nil {
		t.Error(err)
	}
}

func TestDSSEsOwnVerifierAcceptsAReceipt(t *testing.T) {
	v, err := signerverifier.NewED25519SignerVerifierFromSSLibKey(&signerverifier.SSLibKey{
		KeyID: manifest.KeyID(testPublic()), KeyVal: signerverifier.KeyVal{Public: hex.EncodeToString(testPublic())},
	})
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := dsse.NewEnvelopeVerifier(v)
	if err != nil {
		t.Fatal(err)
	}
	var e dsse.Envelope
	if err := json.Unmarshal(example(t).Bytes(), &e); err != nil {
		t.Fatal(err)
	}
	if keys, err := verifier.Verify(t.Context(), &e); err != nil || len(keys) != 1 || keys[0].KeyID != manifest.KeyID(testPublic()) {
		t.Errorf("%v, %v", keys, err)
	}
	e.Payload = base64.StdEncoding.EncodeToString(bytes.Replace(example(t).envelope.Payload, []byte(`"exit_code":0`), []byte(`"exit_code":1`), 1))
	if keys, err := verifier.Verify(t.Context(), &e); err == nil {
		t.Errorf("another exit code is accepted: %v", keys)
	}
}

// The program in docs/PLASM.md verifies both forms by the specification of DSSE, with openssl for the signature.
func TestAForeignVerifierAcceptsBothForms(t *testing.T) {
	document, err := os.ReadFile("../../docs/PLASM.md")
	if err != nil {
		t.Fatal(err)
	}
	program := regexp.MustCompile("(?s)```python\n(.*?)```").FindSubmatch(document)
	if program == nil {
		t.Fatal("no program in docs/PLASM.md")
	}
	dir := t.TempDir()
	der, err := x509.MarshalPKIXPublicKey(testPublic())
	if err != nil {
		t.Fatal(err)
	}
	s := example(t)
	for name, data := range map[string][]byte{
		"key.pub": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "verify.py": program[1],
		"receipt.json": s.Bytes(), "receipt.line": []byte("[    7.399502] plasmd[104]: " + s.Line() + "\r\n"),
		"bad.json": bytes.Replace(s.Bytes(), []byte(`"sig":"`), []byte(`"sig":"AAAA`), 1),
		"bad.line": bytes.Replace([]byte(s.Line()), []byte(`"exit_code":0`), []byte(`"exit_code":1`), 1),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"receipt.json", "receipt.line", "bad.json", "bad.line"} {
		cmd := exec.Command("python3", "verify.py", "key.pub", name)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if good := err == nil && strings.HasSuffix(string(out), "exit 0 "+strings.Repeat("ab", 32)+"\n"); good == strings.HasPrefix(name, "bad") {
			t.Errorf("%s: %s, %v; run: scripts/deps-check.sh --install test", name, out, err)
		}
	}
}

// Python writes the canonical form of a payload.
func TestPythonWritesThePayload(t *testing.T) {
	payload := example(t).envelope.Payload
	cmd := exec.Command("python3", "-c", `import json, sys; sys.stdout.write(json.dumps(json.load(sys.stdin), sort_keys=True, separators=(",", ":")))`)
	cmd.Stdin = bytes.NewReader(payload)
	if out, err := cmd.Output(); err != nil || !bytes.Equal(out, payload) {
		t.Errorf("%s, %v; run: scripts/deps-check.sh --install test", out, err)
	}
}

// FuzzParse gives any bytes: what is accepted encodes to the same bytes, and only the golden one is signed.
func FuzzParse(f *testing.F) {
	good := example(f)
	f.Add(good.Bytes())
	f.Add([]byte(good.Line()))
	f.Add([]byte("x: " + good.Line() + "\r\n"))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data)
		if err != nil {
			if !errors.Is(err, manifest.ErrMalformed) && !errors.Is(err, manifest.ErrSignature) {
				t.Fatalf("refused without a class: %v", err)
			}
			return
		}
		line := bytes.TrimSuffix(data, []byte("\n"))
		if at := bytes.Index(line, []byte(Mark)); at >= 0 {
			line = bytes.TrimSuffix(line[at:], []byte("\r"))
			if string(line) != s.Line() {
				t.Fatalf("accepted %q, written %q", line, s.Line())
			}
		} else if !bytes.Equal(line, s.Bytes()) {
			t.Fatalf("accepted %q, written %q", line, s.Bytes())
		}
		if err := s.Verify(nil); err == nil && s.Run.Machine.Key == hex.EncodeToString(testPublic()) && !bytes.Equal(s.Bytes(), good.Bytes()) {
			t.Fatalf("a forged receipt: %q", s.Line())
		}
	})
}

// FuzzPayload signs any payload: what is accepted is a receipt that encodes to the same bytes.
func FuzzPayload(f *testing.F) {
	f.Add(example(f).envelope.Payload)
	f.Add(sign(f, Facts{Job: plasm.Job{Name: "x"}, Outcome: plasm.Outcome{Reason: "not-run", ExitCode: plasm.NoExitCode}}).envelope.Payload)
	f.Fuzz(func(t *testing.T, payload []byte) {
		s, err := Parse(signAs(t, envelope.InToto, payload).Bytes())
		if err != nil {
			if !errors.Is(err, manifest.ErrMalformed) {
				t.Fatalf("refused without manifest.ErrMalformed: %v", err)
			}
			return
		}
		if again, err := envelope.Canonical(s.Receipt); err != nil || !bytes.Equal(again, payload) {
			t.Fatalf("made again: %s, %v", again, err)
		}
		if err := s.Verify(nil); err != nil && !errors.Is(err, manifest.ErrSignature) {
			t.Fatalf("verify: %v", err)
		}
	})
}
