package order

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
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

var (
	now     = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	machine = publicKey(9)
)

func privateKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func publicKey(seed byte) ed25519.PublicKey { return privateKey(seed).Public().(ed25519.PublicKey) }

func signerOf(t testing.TB, seed byte) signature.Signer {
	t.Helper()
	s, err := signature.LoadSigner(privateKey(seed), crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// submitters are "ci" with the key of seed 1, who may do a little, and "other" with that of seed 2.
func submitters() []manifest.Submitter {
	limits := manifest.SubmitterLimits{Memory: 64 << 20, Timeout: 10_000, CPU: 15_000, Output: 4096}
	return []manifest.Submitter{
		{Name: "ci", Key: publicKey(1), Jobs: 2, Limits: limits, Grants: manifest.SubmitterGrants{Stdin: true, Scratch: 1 << 20, Artifacts: []string{"rootfs"}}},
		{Name: "other", Key: publicKey(2), Jobs: 1, Limits: limits},
	}
}

// example is an order that ci may give.
func example() Order {
	spec := plasm.Spec{
		Args: []string{"-n", "é \"<\x1b[2J"}, Env: map[string]string{"LANG": "C"},
		Grants: plasm.Grants{Stdin: true, Scratch: 1 << 20, Artifacts: []string{"rootfs"}},
		Limits: plasm.Limits{Memory: 64 << 20, Timeout: 10 * time.Second, Output: 4096},
	}
	o := New("hello.wasm", spec, now, time.Hour)
	o.Role, o.InputSHA256, o.Machine = "job/hello.wasm", strings.Repeat("ab", 32), hex.EncodeToString(machine)
	return o
}

func sign(t testing.TB, seed byte, o Order) []byte {
	t.Helper()
	data, err := Sign(t.Context(), signerOf(t, seed), o)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func open(data []byte) (Order, manifest.Submitter, error) {
	return Open(data, submitters(), machine, []string{"lab"}, now)
}

func TestAnOrderOfASubmitterIsOpened(t *testing.T) {
	want := example()
	data := sign(t, 1, want)
	got, by, err := open(data)
	if err != nil || by.Name != "ci" {
		t.Fatalf("%+v, %v", by, err)
	}
	parsed, err := Parse(data)
	if err != nil || parsed.ID != got.ID || len(got.ID) != 64 {
		t.Errorf("ID %q and %q, %v", got.ID, parsed.ID, err)
	}
	want.ID, want.Spec.Limits.CPU = got.ID, 15*time.Second // the submitter's: lower than twice the time limit
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAnOrderIsForOneMachineOneGroupOrAll(t *testing.T) {
	for name, edit := range map[string]func(*Order){
		"machine": func(*Order) {},
		"group":   func(o *Order) { o.Machine, o.Group = "", "lab" },
		"all":     func(o *Order) { o.Machine = "" },
		"by CID": func(o *Order) {
			o.Role, o.ModuleCID = "", "bafkr4igcpf4qxjlxbwlefv6bwgo45k7u2cnh3eep4rbohkxxfmgdisgese"
		},
		"by digest": func(o *Order) { o.Role, o.ModuleSHA256 = "", strings.Repeat("01", 32) },
		"24 hours":  func(o *Order) { o.Expires = now.Add(MaxAhead) },
		"from now":  func(o *Order) { o.NotBefore = now },
	} {
		o := example()
		edit(&o)
		if _, _, err := open(sign(t, 1, o)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTwoOrdersForTheSameJobHaveTwoIDs(t *testing.T) {
	a, err := Parse(sign(t, 1, example()))
	if err != nil {
		t.Fatal(err)
	}
	b, err := Parse(sign(t, 1, example()))
	if err != nil || a.ID == b.ID {
		t.Errorf("%s twice, %v", a.ID, err)
	}
}

func TestAttackAnOrderThatIsRefused(t *testing.T) {
	edited := func(seed byte, edit func(*Order)) []byte {
		o := example()
		edit(&o)
		return sign(t, seed, o)
	}
	good := sign(t, 1, example())
	for _, c := range []struct {
		name string
		data []byte
		is   error
		says string
	}{
		{"unsigned", unsigned(t, good), manifest.ErrSignature, "it is not signed"},
		{"not a submitter", sign(t, 3, example()), manifest.ErrSignature, "none of the submitters of the release"},
		{"a key in the name of another", renamed(t, sign(t, 3, example()), publicKey(1)), manifest.ErrSignature, `the signature of submitter "ci" is wrong`},
		{"another payload type of the same key", another(t, good, "application/vnd.in-toto+json"), manifest.ErrSignature, "payload of type"},
		{"another payload type, renamed", bytes.Replace(another(t, good, "application/vnd.phaseboot.job+jsom"), []byte("+jsom"), []byte("+json"), 1), manifest.ErrSignature, `the signature of submitter "ci" is wrong`},
		{"expired", edited(1, func(o *Order) { o.Expires = now }), manifest.ErrExpired, "expired at 2026-11-30T12:00:00Z"},
		{"not yet valid", edited(1, func(o *Order) { o.NotBefore = now.Add(time.Second) }), ErrNotYet, "not valid before 2026-11-30T12:00:01Z"},
		{"valid for too long", edited(1, func(o *Order) { o.Expires = now.Add(MaxAhead + time.Second) }), ErrPolicy, "more than 24 hours after now"},
		{"another machine", edited(1, func(o *Order) { o.Machine = hex.EncodeToString(publicKey(8)) }), ErrElsewhere, "for machine"},
		{"another group", edited(1, func(o *Order) { o.Machine, o.Group = "", "shop" }), ErrElsewhere, `for group "shop"`},
		{"clock", edited(1, func(o *Order) { o.Spec.Grants.Clock = true }), ErrPolicy, `it asks for clock, which the release does not grant to submitter "ci"`},
		{"random", edited(1, func(o *Order) { o.Spec.Grants.Random = true }), ErrPolicy, "it asks for random"},
		{"stdin", edited(2, func(o *Order) { o.Spec.Grants = plasm.Grants{Stdin: true} }), ErrPolicy, `it asks for stdin, which the release does not grant to submitter "other"`},
		{"scratch", edited(2, func(o *Order) { o.Spec.Grants, o.InputSHA256 = plasm.Grants{Scratch: 65536}, "" }), ErrPolicy, "it asks for scratch"},
		{"artifact", edited(1, func(o *Order) { o.Spec.Grants.Artifacts = []string{"rootfs", "kernel"} }), ErrPolicy, `it asks for artifact "kernel"`},
		{"memory", edited(1, func(o *Order) { o.Spec.Limits.Memory += 65536 }), ErrPolicy, "memory: it asks for 67174400 bytes"},
		{"time", edited(1, func(o *Order) { o.Spec.Limits.Timeout += time.Millisecond }), ErrPolicy, "time: it asks for 10001 ms"},
		{"processor time", edited(1, func(o *Order) { o.Spec.Limits.CPU = 16 * time.Second }), ErrPolicy, "processor time: it asks for 16000 ms"},
		{"output", edited(1, func(o *Order) { o.Spec.Limits.Output++ }), ErrPolicy, "output: it asks for 4097 bytes"},
		{"size of scratch", edited(1, func(o *Order) { o.Spec.Grants.Scratch += 65536 }), ErrPolicy, "scratch folder: it asks for 1114112 bytes"},
		{"cut", good[:len(good)/2], manifest.ErrMalformed, "not JSON"},
		{"too long", bytes.Repeat([]byte(" "), MaxEnvelope+1), manifest.ErrMalformed, "more than 65536 bytes"},
		{"a receipt", payload(t, `{"_type":"https://in-toto.io/Statement/v1"}`), manifest.ErrMalformed, "payload:"},
		{"another format", swapped(t, `"phaseboot/job/v1"`, `"phaseboot/job/v2"`), manifest.ErrMalformed, "use a plasmd of this version"},
		{"a field twice", swapped(t, `"nonce":`, `"nonce":"","nonce":`), manifest.ErrMalformed, "not in its canonical form"},
		{"an unknown field", swapped(t, `"nonce":`, `"network":true,"nonce":`), manifest.ErrMalformed, "unknown field"},
		{"an unknown grant", swapped(t, `"stdin":true`, `"net":true,"stdin":true`), manifest.ErrMalformed, "unknown field"},
		{"a blank", swapped(t, `"nonce":`, `"nonce": `), manifest.ErrMalformed, "not in its canonical form"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, by, err := open(c.data)
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "order: ") {
				t.Errorf("got %v, want %q", err, c.says)
			}
			if c.is != manifest.ErrMalformed && !errors.Is(err, manifest.ErrUntrusted) {
				t.Errorf("%v is not of the class untrusted", err)
			}
			if strings.ContainsAny(err.Error(), "\n\x1b") || o.Name != "" || by.Name != "" {
				t.Errorf("%q with %+v", err, o)
			}
		})
	}
}

// unsigned takes the signatures away.
func unsigned(t *testing.T, data []byte) []byte {
	return edit(t, data, func(e *dsse.Envelope) { e.Signatures = []dsse.Signature{} })
}

// renamed names another key as the one that has signed.
func renamed(t *testing.T, data []byte, key ed25519.PublicKey) []byte {
	return edit(t, data, func(e *dsse.Envelope) { e.Signatures[0].KeyID = manifest.KeyID(key) })
}

func edit(t *testing.T, data []byte, change func(*dsse.Envelope)) []byte {
	t.Helper()
	var e dsse.Envelope
	if err := json.Unmarshal(data, &e); err != nil {
		t.Fatal(err)
	}
	change(&e)
	data, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// another signs the payload of an order as one of another type, with the key of the submitter.
func another(t *testing.T, data []byte, payloadType string) []byte {
	t.Helper()
	e, err := envelope.Parse(data, PayloadType, MaxEnvelope)
	if err != nil {
		t.Fatal(err)
	}
	e, err = envelope.Sign(t.Context(), payloadType, e.Payload, signerOf(t, 1), publicKey(1))
	if err != nil {
		t.Fatal(err)
	}
	return e.Bytes()
}

// payload is an envelope of a submitter with any payload.
func payload(t testing.TB, text string) []byte {
	t.Helper()
	e, err := envelope.Sign(t.Context(), PayloadType, []byte(text), signerOf(t, 1), publicKey(1))
	if err != nil {
		t.Fatal(err)
	}
	return e.Bytes()
}

// swapped is an order of a submitter whose payload was changed before it was signed.
func swapped(t *testing.T, old, new string) []byte {
	t.Helper()
	e, err := envelope.Parse(sign(t, 1, example()), PayloadType, MaxEnvelope)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(e.Payload, []byte(old)) {
		t.Fatalf("no %s in %s", old, e.Payload)
	}
	return payload(t, strings.Replace(string(e.Payload), old, new, 1))
}

// Every single changed byte of an envelope is refused, by whatever check comes first.
func TestAttackAnOrderWithOneChangedByte(t *testing.T) {
	good := sign(t, 1, example())
	for i := range good {
		data := bytes.Clone(good)
		data[i] ^= 1
		if _, _, err := open(data); !errors.Is(err, manifest.ErrUntrusted) && !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("byte %d, %q: %v", i, good[i], err)
		}
	}
}

func TestNothingIsAcceptedWithoutSubmitters(t *testing.T) {
	_, _, err := Open(sign(t, 1, example()), nil, machine, nil, now)
	if !errors.Is(err, manifest.ErrSignature) || !strings.Contains(err.Error(), "names no submitters") {
		t.Errorf("got %v", err)
	}
}

func TestSignRefusesWhatNoMachineReads(t *testing.T) {
	for _, c := range []struct {
		name, says string
		edit       func(*Order)
	}{
		{"no module", "it names no module", func(o *Order) { o.Role = "" }},
		{"two modules", "a role and a module", func(o *Order) { o.ModuleSHA256 = strings.Repeat("0", 64) }},
		{"a role that is no job", "not the role of a job", func(o *Order) { o.Role = "rootfs" }},
		{"a role outside", "not the role of a job", func(o *Order) { o.Role = "job/../../x.wasm" }},
		{"a CID that is none", "CID", func(o *Order) { o.Role, o.ModuleCID = "", "bafy" }},
		{"two targets", "a machine and a group", func(o *Order) { o.Group = "lab" }},
		{"a name with a slash", "without a slash", func(o *Order) { o.Name = "a/b" }},
		{"a name with an escape sequence", "bytes that print", func(o *Order) { o.Name = "a\x1b[2J" }},
		{"no name", "must be 1 to 200 bytes", func(o *Order) { o.Name = "" }},
		{"an input without stdin", "asks for no stdin", func(o *Order) { o.Spec.Grants.Stdin = false }},
		{"a short nonce", "nonce", func(o *Order) { o.Nonce = o.Nonce[2:] }},
		{"dates in the wrong order", "it must expire later", func(o *Order) { o.Expires = o.NotBefore }},
		{"a local date", "not a UTC date", func(o *Order) { o.Expires = o.Expires.In(time.FixedZone("", 3600)) }},
		{"a part of a second", "whole seconds", func(o *Order) { o.Expires = o.Expires.Add(time.Millisecond) }},
		{"a limit that nothing has", "memory limit", func(o *Order) { o.Spec.Limits.Memory = 1 }},
		{"a group with a slash", "not a name of letters", func(o *Order) { o.Machine, o.Group = "", "a/b" }},
		{"an argument that is not UTF-8", "not UTF-8", func(o *Order) { o.Spec.Args = []string{"\xff"} }},
		{"long arguments", "the limit is 65536", func(o *Order) { o.Spec.Args = []string{strings.Repeat("\x01", 10_000)} }},
	} {
		o := example()
		c.edit(&o)
		if data, err := Sign(t.Context(), signerOf(t, 1), o); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), c.says) || data != nil {
			t.Errorf("%s: got %v, want %q", c.name, err, c.says)
		}
	}
	if _, err := Sign(t.Context(), nil, example()); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "name the private key") {
		t.Errorf("a public key: %v", err)
	}
}

func TestAForeignVerifierAcceptsAnOrder(t *testing.T) {
	v, err := signerverifier.NewED25519SignerVerifierFromSSLibKey(&signerverifier.SSLibKey{
		KeyID: manifest.KeyID(publicKey(1)), KeyVal: signerverifier.KeyVal{Public: hex.EncodeToString(publicKey(1))},
	})
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := dsse.NewEnvelopeVerifier(v)
	if err != nil {
		t.Fatal(err)
	}
	var e dsse.Envelope
	if err := json.Unmarshal(sign(t, 1, example()), &e); err != nil {
		t.Fatal(err)
	}
	if keys, err := verifier.Verify(t.Context(), &e); err != nil || len(keys) != 1 {
		t.Errorf("%v, %v", keys, err)
	}
	e.PayloadType = "application/vnd.in-toto+json"
	if _, err := verifier.Verify(t.Context(), &e); err == nil {
		t.Error("another payload type is accepted")
	}
}

// FuzzOpen signs any payload with the key of a submitter: what is accepted encodes to the same bytes, stays
// within the policy, and a refusal has its class.
func FuzzOpen(f *testing.F) {
	for _, edit := range []func(*Order){func(*Order) {}, func(o *Order) { o.Machine, o.Group = "", "lab" }} {
		o := example()
		edit(&o)
		e, err := envelope.Parse(sign(f, 1, o), PayloadType, MaxEnvelope)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(e.Payload)
	}
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		data := payload(t, string(text))
		o, by, err := open(data)
		if err != nil {
			if !errors.Is(err, manifest.ErrUntrusted) && !errors.Is(err, manifest.ErrMalformed) {
				t.Fatalf("refused without a class: %v", err)
			}
			return
		}
		if o.Expires.Sub(now) > MaxAhead || !o.Expires.After(now) || o.Spec.Limits.Memory > by.Limits.Memory || o.Spec.Limits.CPU > 15*time.Second || o.Spec.Grants.Clock {
			t.Fatalf("beyond the policy: %+v", o)
		}
		parsed, err := Parse(data)
		if err != nil || parsed.ID != o.ID {
			t.Fatalf("parsed: %v", err)
		}
		if again, err := envelope.Canonical(parsed); err != nil || !bytes.Equal(again, text) {
			t.Fatalf("made again: %s, %v", again, err)
		}
	})
}

// FuzzEnvelope gives any bytes.
func FuzzEnvelope(f *testing.F) {
	o := example()
	o.Nonce = strings.Repeat("0", 32) // the same in each process of the fuzzer
	good := sign(f, 1, o)
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, _, err := open(data); err == nil && !bytes.Equal(data, good) {
			t.Fatalf("accepted: %s", data)
		} else if err != nil && !errors.Is(err, manifest.ErrUntrusted) && !errors.Is(err, manifest.ErrMalformed) {
			t.Fatalf("refused without a class: %v", err)
		}
	})
}
