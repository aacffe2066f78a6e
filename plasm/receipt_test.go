package plasm

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/phaseboot/phaseboot/manifest"
)

// testKey returns a public test key.
func testKey() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte("phaseboot: a seed for tests only"))
}

// exampleReceipt returns a receipt with fixed fields, so that its bytes and signature are fixed.
func exampleReceipt(t testing.TB) Receipt {
	t.Helper()
	job, err := NewJob(t.Context(), "x.wasm", hand{}.bytes())
	if err != nil {
		t.Fatal(err)
	}
	rel := manifest.Release{Channel: "stable", Arch: "x86_64", Version: "2026.11.23-demo", Number: 3}
	o := Outcome{
		Started: time.Date(2026, 11, 23, 14, 0, 0, 999, time.FixedZone("", 3600)), Run: 1234 * time.Microsecond,
		MemoryPeak: page, Reason: ReasonExit, Output: Output{SHA256: strings.Repeat("ab", 32), Length: 12},
	}
	r, err := NewReceipt(job, &rel, Limits{Memory: 64 << 20, Timeout: 30 * time.Second, Output: 64 << 10}, o).Sign(testKey(), false)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func encode(t testing.TB, r Receipt) []byte {
	t.Helper()
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Other programs verify the bytes of the golden file.
func TestReceiptHasTheGoldenBytes(t *testing.T) {
	golden, err := os.ReadFile("testdata/receipt.json")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(encode(t, exampleReceipt(t))) + "\n"; got != string(golden) {
		t.Errorf("got  %s\nwant %s", got, golden)
	}
	r, err := ParseReceipt(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(exampleReceipt(t), r); diff != "" {
		t.Error(diff)
	}
	if err := r.Verify(testKey().Public().(ed25519.PublicKey)); err != nil {
		t.Error(err)
	}
}

// The signature covers what any JSON library can produce: the receipt without its signature, with sorted
// keys and without white space.
func TestSignatureCoversTheJSONWithoutIt(t *testing.T) {
	var fields map[string]any
	d := json.NewDecoder(bytes.NewReader(encode(t, exampleReceipt(t))))
	d.UseNumber()
	if err := d.Decode(&fields); err != nil {
		t.Fatal(err)
	}
	delete(fields, "signature")
	want, err := json.Marshal(fields) // sorts keys
	if err != nil {
		t.Fatal(err)
	}
	got, err := exampleReceipt(t).signed()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("signed %s, %v; want %s", got, err, want)
	}
}

func TestEveryFieldIsSigned(t *testing.T) {
	edits := map[string]func(*Receipt){
		"module CID":     func(r *Receipt) { r.Module.CID = "bafkr4ig3bvgsmyzmpewuo4zxtalwbcrqvbxyqnjfgmw6xl3sjvj2jxpbzm" },
		"module sha256":  func(r *Receipt) { r.Module.SHA256 = strings.Repeat("0", 64) },
		"module length":  func(r *Receipt) { r.Module.Length++ },
		"release":        func(r *Receipt) { r.Release.Version = "2" },
		"channel":        func(r *Receipt) { r.Release.Channel = "beta" },
		"role version":   func(r *Receipt) { r.Release.Number++ },
		"release absent": func(r *Receipt) { r.Release = nil },
		"started":        func(r *Receipt) { r.Started = "2026-11-23T14:00:00Z" },
		"duration":       func(r *Receipt) { r.DurationMS = 0 },
		"memory":         func(r *Receipt) { r.MemoryPeak = 0 },
		"reason":         func(r *Receipt) { r.Reason = ReasonTimeout },
		"exit code":      func(r *Receipt) { r.ExitCode = 1 },
		"output digest":  func(r *Receipt) { r.Output.SHA256 = strings.Repeat("0", 64) },
		"output length":  func(r *Receipt) { r.Output.Length++ },
		"truncated":      func(r *Receipt) { r.Output.Truncated = true },
		"limit":          func(r *Receipt) { r.Limits.Memory *= 2 },
		"machine":        func(r *Receipt) { r.Machine.Key = strings.Repeat("0", 64) },
		"ephemeral":      func(r *Receipt) { r.Machine.Ephemeral = true },
		"signature":      func(r *Receipt) { r.Signature = "A" + r.Signature[1:] },
	}
	for name, edit := range edits {
		t.Run(name, func(t *testing.T) {
			r := exampleReceipt(t)
			edit(&r)
			if cmp.Equal(r, exampleReceipt(t)) {
				t.Fatal("the edit changes nothing")
			}
			if err := r.Verify(nil); !errors.Is(err, manifest.ErrSignature) {
				t.Errorf("got %v, want manifest.ErrSignature", err)
			}
		})
	}
}

func TestAReceiptOfAnotherMachineIsRefused(t *testing.T) {
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := exampleReceipt(t).Verify(other); !errors.Is(err, manifest.ErrSignature) {
		t.Errorf("got %v, want manifest.ErrSignature", err)
	}
}

func TestOnlyTheCanonicalFormIsAccepted(t *testing.T) {
	good := string(encode(t, exampleReceipt(t)))
	swap := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %s in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	tests := []struct{ name, data string }{
		{"empty", ""},
		{"not JSON", "receipt"},
		{"null", "null"},
		{"an empty object", "{}"},
		{"cut", good[:len(good)/2]},
		{"something after it", good + "{}"},
		{"two newlines", good + "\n\n"},
		{"a space", swap(`"exit_code":0`, `"exit_code": 0`)},
		{"a field twice", swap(`"exit_code":0`, `"exit_code":1,"exit_code":0`)},
		{"another spelling", swap(`"exit_code"`, `"Exit_Code"`)},
		{"an unknown field", swap(`"exit_code":0`, `"exit_code":0,"extra":1`)},
		{"an escape", swap(`"stable"`, `"st\u0061ble"`)},
		{"a float", swap(`"duration_ms":1`, `"duration_ms":1.0`)},
		{"a negative number", swap(`"duration_ms":1`, `"duration_ms":-1`)},
		{"beyond 2^53", swap(`"duration_ms":1`, `"duration_ms":9007199254740993`)},
		{"another format", swap(`receipt/v1`, `receipt/v2`)},
		{"no release fields", swap(`"version":"2026.11.23-demo"`, `"version":""`)},
		{"an unknown reason", swap(`"reason":"exit"`, `"reason":"fun"`)},
		{"a local time", swap(`13:00:00Z`, `14:00:00+01:00`)},
		{"upper-case hex", swap(strings.Repeat("ab", 32), strings.Repeat("AB", 32))},
		{"a short signature", swap(`=="`, `"`)},
		{"no CID", swap(`"cid":"b`, `"cid":"`)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ParseReceipt([]byte(tt.data)); !errors.Is(err, manifest.ErrMalformed) {
				t.Errorf("got %v, want manifest.ErrMalformed", err)
			}
		})
	}
}

func TestAVersionThatNeedsEscapesIsRefused(t *testing.T) {
	for _, version := range []string{"", "1\n2", `1"2`, `1\2`, "1<2", "ä", strings.Repeat("1", 201)} {
		r := exampleReceipt(t)
		r.Release.Version = version
		if _, err := r.Sign(testKey(), false); !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("%q: got %v, want manifest.ErrMalformed", version, err)
		}
	}
}

// FuzzParseReceipt: an accepted receipt encodes to the same bytes.
func FuzzParseReceipt(f *testing.F) {
	f.Add(encode(f, exampleReceipt(f)))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseReceipt(data)
		if err != nil {
			if !errors.Is(err, manifest.ErrMalformed) {
				t.Fatalf("refused without manifest.ErrMalformed: %v", err)
			}
			return
		}
		if again := encode(t, r); !bytes.Equal(again, bytes.TrimSuffix(data, []byte("\n"))) {
			t.Errorf("accepted %q, encodes to %q", data, again)
		}
		if err := r.Verify(nil); err != nil && !errors.Is(err, manifest.ErrSignature) {
			t.Errorf("verify: %v", err)
		}
	})
}
