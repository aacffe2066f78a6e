package envelope

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/secure-systems-lab/go-securesystemslib/signerverifier"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/phaseboot/phaseboot/manifest"
)

const maxBytes = 64 << 10

func testKey(t testing.TB, seed byte) (signature.Signer, ed25519.PublicKey) {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	signer, err := signature.LoadSigner(private, crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	return signer, private.Public().(ed25519.PublicKey)
}

func sign(t testing.TB, seed byte, payloadType, payload string) Envelope {
	t.Helper()
	signer, public := testKey(t, seed)
	e, err := Sign(t.Context(), payloadType, []byte(payload), signer, public)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestASignedEnvelopeIsReadBack(t *testing.T) {
	e := sign(t, 1, InToto, `{"a":1}`)
	again, err := Parse(e.Bytes(), InToto, maxBytes)
	if err != nil || string(again.Payload) != `{"a":1}` {
		t.Fatalf("%+v, %v", again, err)
	}
	_, key := testKey(t, 1)
	_, other := testKey(t, 2)
	if !again.SignedBy(key) || again.SignedBy(other) || again.SignedBy(nil) {
		t.Error("signed by the wrong key")
	}
}

func TestAForeignVerifierAcceptsTheEnvelope(t *testing.T) {
	e := sign(t, 1, InToto, `{"a":1}`)
	_, key := testKey(t, 1)
	foreign, err := signerverifier.NewED25519SignerVerifierFromSSLibKey(&signerverifier.SSLibKey{KeyVal: signerverifier.KeyVal{Public: hex.EncodeToString(key)}, KeyID: manifest.KeyID(key)})
	if err != nil {
		t.Fatal(err)
	}
	v, err := dsse.NewEnvelopeVerifier(foreign)
	if err != nil {
		t.Fatal(err)
	}
	var read dsse.Envelope
	if err := json.Unmarshal(e.Bytes(), &read); err != nil {
		t.Fatal(err)
	}
	if keys, err := v.Verify(t.Context(), &read); err != nil || len(keys) != 1 {
		t.Errorf("%v, %v", keys, err)
	}
	read.PayloadType = "text/plain"
	if keys, err := v.Verify(t.Context(), &read); err == nil {
		t.Errorf("another payload type is accepted: %v", keys)
	}
}

func TestAttackAnotherPayloadTypeByTheSameKey(t *testing.T) {
	_, key := testKey(t, 1)
	e := sign(t, 1, "text/plain", `{"a":1}`)
	if _, err := Parse(e.Bytes(), InToto, maxBytes); !errors.Is(err, manifest.ErrSignature) || !strings.Contains(err.Error(), `payload of type "text/plain"`) {
		t.Errorf("got %v", err)
	}
	e.Type = InToto // the attacker names the right type beside the signature of the other
	renamed, err := Parse(e.Bytes(), InToto, maxBytes)
	if err != nil || renamed.SignedBy(key) {
		t.Errorf("a signature over another payload type is accepted: %v", err)
	}
}

// Each single byte of an envelope counts: no change of one is accepted with the signature.
func TestEveryByteCounts(t *testing.T) {
	_, key := testKey(t, 1)
	good := sign(t, 1, InToto, `{"a":1,"b":"text"}`).Bytes()
	for i := range good {
		for _, b := range []byte{good[i] ^ 1, good[i] ^ 2, good[i] ^ 0x20, ' ', '\n', '"', 'A', '0', 0} {
			if b == good[i] {
				continue
			}
			data := bytes.Clone(good)
			data[i] = b
			if e, err := Parse(data, InToto, maxBytes); err == nil && e.SignedBy(key) {
				t.Errorf("byte %d as %q is accepted: %s", i, b, data)
			}
		}
	}
}

func TestOnlyTheOneFormIsAccepted(t *testing.T) {
	good := string(sign(t, 1, InToto, `{"a":1}`).Bytes())
	swap := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %s in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	for _, c := range []struct {
		name, data, reason string
		is                 error
	}{
		{"empty", "", "not JSON", manifest.ErrMalformed},
		{"cut", good[:len(good)-2], "not JSON", manifest.ErrMalformed},
		{"something after it", good + "{}", "not JSON", manifest.ErrMalformed},
		{"a list", "[]", "not in the form of DSSE", manifest.ErrMalformed},
		{"null", "null", "no payload type, so it is not a DSSE envelope", manifest.ErrMalformed},
		{"other JSON", "{}", "no payload type, so it is not a DSSE envelope", manifest.ErrMalformed},
		{"another payload type", swap(InToto, "text/plain"), `payload of type "text/plain"`, manifest.ErrSignature},
		{"a blank", swap(":", ": "), "not in the one form", manifest.ErrMalformed},
		{"a newline", good + "\n", "not in the one form", manifest.ErrMalformed},
		{"an escape", swap("payloadType", `payload\u0054ype`), "not in the one form", manifest.ErrMalformed},
		{"another spelling", swap(`"payload":`, `"PAYLOAD":`), "not in the one form", manifest.ErrMalformed},
		{"two payloads", swap(`{"payloadType"`, `{"payload":"AAAA","payloadType"`), "not in the one form", manifest.ErrMalformed},
		{"another field", swap(`{"payloadType"`, `{"x":1,"payloadType"`), "not in the one form", manifest.ErrMalformed},
		{"unsigned", good[:strings.Index(good, `"signatures"`)] + `"signatures":[]}`, "it is not signed", manifest.ErrSignature},
		{"two signatures", swap(`"signatures":[`, `"signatures":[{"keyid":"","sig":""},`), "2 signatures", manifest.ErrMalformed},
		{"no base64", swap(`"sig":"`, `"sig":"-`), "signature: not standard base64", manifest.ErrMalformed},
		{"too long", strings.Repeat(" ", maxBytes) + good, "more than 65536 bytes", manifest.ErrMalformed},
	} {
		if _, err := Parse([]byte(c.data), InToto, maxBytes); !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.reason)
		}
	}
}

func TestAKeyWithoutItsPrivateHalfSignsNothing(t *testing.T) {
	signer, key := testKey(t, 1)
	if _, err := Sign(t.Context(), InToto, nil, nil, key); err == nil || !strings.Contains(err.Error(), "name the private key") {
		t.Errorf("got %v", err)
	}
	_, other := testKey(t, 2)
	if _, err := Sign(t.Context(), InToto, nil, signer, other); err == nil {
		t.Error("signed in the name of another key")
	}
}

// texts has a field for each kind of value.
type texts struct {
	Text string            `json:"text,omitempty"`
	List []string          `json:"list,omitempty"`
	Map  map[string]string `json:"map,omitempty"`
	Num  int64             `json:"num,omitempty"`
	On   bool              `json:"on,omitempty"`
}

func TestPythonWritesTheSameCanonicalForm(t *testing.T) {
	v := texts{
		Text: "<a&b> \"q\" \\ \b\f\n\r\t\x00\x1b\x7f é \u2028 \u202e 😀", List: []string{"", "ü"},
		Map: map[string]string{"b": "1", "A": "2", "a": "3"}, Num: -(1 << 53), On: true,
	}
	got, err := Canonical(v)
	if err != nil {
		t.Fatal(err)
	}
	in, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("python3", "-c", `import json, sys; sys.stdout.write(json.dumps(json.load(sys.stdin), sort_keys=True, separators=(",", ":")))`)
	cmd.Stdin = bytes.NewReader(in)
	want, err := cmd.Output()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got  %s\nwant %s, %v; run: scripts/deps-check.sh --install test", got, want, err)
	}
	for _, c := range got {
		if c < ' ' || c > '~' {
			t.Fatalf("byte %#x in %s", c, got)
		}
	}
	var again texts
	if err := Decode(got, &again); err != nil || again.Text != v.Text {
		t.Errorf("read back: %+v, %v", again, err)
	}
}

func TestOnlyTheCanonicalFormIsDecoded(t *testing.T) {
	for _, text := range []string{
		``, `null`, `{`, `[]`, `{} `, `{}{}`, `{"num": 1}`, `{"num":0}`, `{"num":1.0}`, `{"num":1e3}`, `{"num":01}`, `{"num":-0}`,
		`{"num":9007199254740993}`, `{"num":99999999999999999999}`, `{"on":true,"num":1}`, `{"num":1,"num":1}`, `{"Num":1}`, `{"text":null}`, `{"other":1}`,
		`{"text":"é"}`, `{"text":"\u00E9"}`, `{"text":"\u0041"}`, `{"text":"\/"}`, `{"text":"\ud800"}`, "{\"text\":\"\xff\"}", `{"map":{"b":"","a":""}}`, `{"map":{"a":"","a":""}}`,
		`{"list":[]}`, `{"list":[null]}`,
	} {
		var v texts
		if err := Decode([]byte(text), &v); !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("%s: %v, read as %+v", text, err, v)
		}
	}
	if _, err := Canonical(texts{Num: 1<<53 + 1}); err == nil {
		t.Error("a number beyond 2^53 is written")
	}
}

// FuzzParse checks that an envelope that is accepted is written as the same bytes, and its payload too.
func FuzzParse(f *testing.F) {
	f.Add(sign(f, 1, InToto, `{"text":"a\u00e9"}`).Bytes())
	f.Add([]byte(`{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[{"keyid":"","sig":""}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := Parse(data, InToto, maxBytes)
		if err != nil {
			if !errors.Is(err, manifest.ErrMalformed) && !errors.Is(err, manifest.ErrSignature) {
				t.Fatalf("refused without a class: %v", err)
			}
			return
		}
		if !bytes.Equal(e.Bytes(), data) {
			t.Fatalf("made again: %s", e.Bytes())
		}
		var v texts
		if Decode(e.Payload, &v) != nil {
			return
		}
		if again, err := Canonical(v); err != nil || !bytes.Equal(again, e.Payload) {
			t.Fatalf("payload made again: %s, %v", again, err)
		}
	})
}
