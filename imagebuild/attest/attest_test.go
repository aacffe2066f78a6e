package attest

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/imagebuild"
	"github.com/phaseboot/phaseboot/manifest"
)

func testKey(t testing.TB, seed byte) (signature.Signer, ed25519.PublicKey) {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	signer, err := signature.LoadSigner(private, crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	return signer, private.Public().(ed25519.PublicKey)
}

func sum(digit string) string { return strings.Repeat(digit, 64) }

// testRebuilt is a stick that is equal to its rebuild.
func testRebuilt() *imagebuild.Rebuilt {
	return &imagebuild.Rebuilt{Equal: true, Listed: true, Contents: &imagebuild.Contents{
		Image: "dir/stick.img", Kind: imagebuild.KindDisk, Size: 1 << 30, SHA256: sum("1"), BootSum: sum("2"), RootSum: sum("3"), Channel: "stable", BuildTime: "1700000000",
		System: imagebuild.System{Arch: "x86_64", Init: sum("4"), KernelSum: sum("5"), Inputs: imagebuild.Inputs{
			{Name: "busybox-static", Version: "1:1.35.0-4+b3", Arch: "amd64", SHA256: sum("6"), Path: "pool/b.deb"},
		}},
	}}
}

// statementOf returns the signed statement of a key about r, after edit.
func statementOf(t testing.TB, seed byte, r *imagebuild.Rebuilt, edit func(*Statement)) []byte {
	t.Helper()
	signer, public := testKey(t, seed)
	s, err := New(r, public, "1.0")
	if err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(s)
	}
	data, err := Sign(t.Context(), s, signer, public)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func publicKeys(t *testing.T, seeds ...byte) (keys []ed25519.PublicKey) {
	for _, seed := range seeds {
		_, k := testKey(t, seed)
		keys = append(keys, k)
	}
	return keys
}

func TestTwoOfThreeRebuildersAreEnough(t *testing.T) {
	r := testRebuilt()
	files := []File{{"a.json", statementOf(t, 1, r, nil)}, {"b.json", statementOf(t, 2, r, nil)}}
	keys := publicKeys(t, 1, 2, 3)
	v, err := Demand(r.Contents, files, keys, 2)
	if err != nil || len(v.Accepted) != 2 || !v.Accepted[0].Whole || v.Accepted[1].KeyID != manifest.KeyID(keys[1]) {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := Demand(r.Contents, files, keys, 3); !errors.Is(err, manifest.ErrUntrusted) {
		t.Errorf("2 of 3, 3 demanded: %v", err)
	}
	if again := statementOf(t, 1, r, nil); !bytes.Equal(again, files[0].Data) {
		t.Error("the same rebuild gives another statement")
	}
	// a stick that a machine has used: its file has another digest, what it boots from has not
	used := *r.Contents
	used.SHA256 = sum("9")
	if v, err := Demand(&used, files, keys, 2); err != nil || v.Accepted[0].Whole {
		t.Errorf("a used stick: %+v, %v", v, err)
	}
	// a blank does not matter: the payload is what is signed
	if _, err := Demand(r.Contents, []File{{"a.json", indented(t, files[0].Data)}}, keys, 1); err != nil {
		t.Error(err)
	}
}

func indented(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, data, "", "  "); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestAttackAStatementThatDoesNotCount(t *testing.T) {
	r := testRebuilt()
	good := statementOf(t, 1, r, nil)
	other := testRebuilt()
	other.SHA256, other.BootSum = sum("a"), sum("b")
	envelope := func(change func(*dsse.Envelope)) []byte {
		var e dsse.Envelope
		if err := json.Unmarshal(good, &e); err != nil {
			t.Fatal(err)
		}
		change(&e)
		data, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	payload := func(old, new string) []byte {
		return envelope(func(e *dsse.Envelope) {
			text, _ := base64.StdEncoding.DecodeString(e.Payload)
			if !strings.Contains(string(text), old) {
				t.Fatalf("no %q in the payload", old)
			}
			e.Payload = base64.StdEncoding.EncodeToString([]byte(strings.ReplaceAll(string(text), old, new)))
		})
	}
	for _, c := range []struct {
		name, reason string
		data         []byte
	}{
		{"about another image", "about another image: \"stick.img\" with sha256", statementOf(t, 1, other, nil)},
		{"of a key that is not demanded", "which is none of the rebuilders that are demanded", statementOf(t, 9, r, nil)},
		{"of another key, in the name of a rebuilder", "the signature is wrong", envelope(func(e *dsse.Envelope) {
			var forged dsse.Envelope
			if err := json.Unmarshal(statementOf(t, 9, r, nil), &forged); err != nil {
				t.Fatal(err)
			}
			e.Payload, e.Signatures[0].Sig = forged.Payload, forged.Signatures[0].Sig
		})},
		{"moved to another image", "the signature is wrong", payload(sum("1"), sum("a"))},
		{"with another predicate", "predicate of type", statementOf(t, 1, r, func(s *Statement) { s.PredicateType = "https://slsa.dev/verification_summary/v1" })},
		{"of another type", "statement of type", statementOf(t, 1, r, func(s *Statement) { s.Type = "https://in-toto.io/Statement/v0.1" })},
		{"about a build that is no rebuild", "build of type", statementOf(t, 1, r, func(s *Statement) { s.Predicate.BuildDefinition.BuildType = "https://example.com/ci" })},
		{"in the name of another rebuilder", "builder of type", statementOf(t, 1, r, func(s *Statement) {
			s.Predicate.RunDetails.Builder.ID = builderPrefix + manifest.KeyID(publicKeys(t, 2)[0])
		})},
		{"without a subject", "about another image", statementOf(t, 1, r, func(s *Statement) { s.Subject = nil })},
		{"with an empty digest", "about another image", statementOf(t, 1, r, func(s *Statement) { s.Subject = []Descriptor{{Name: "stick.img"}} })},
		{"with another payload type", "payload of type", envelope(func(e *dsse.Envelope) { e.PayloadType = "text/plain" })},
		{"without a signature", "0 signatures", envelope(func(e *dsse.Envelope) { e.Signatures = nil })},
		{"with two signatures", "2 signatures", envelope(func(e *dsse.Envelope) { e.Signatures = append(e.Signatures, e.Signatures[0]) })},
		{"without a key ID", "which is none of the rebuilders", envelope(func(e *dsse.Envelope) { e.Signatures[0].KeyID = "" })},
		{"with a short signature", "the signature is wrong", envelope(func(e *dsse.Envelope) { e.Signatures[0].Sig = "AAAA" })},
		{"with a second payload", "not in the one form", bytes.Replace(good, []byte(`{"payloadType"`), []byte(`{"payload":"AAAA","payloadType"`), 1)},
		{"with a payload in capitals", "not in the one form", bytes.Replace(good, []byte(`"payload":`), []byte(`"PAYLOAD":`), 1)},
		{"with another field", "not in the one form", bytes.Replace(good, []byte(`{"payloadType"`), []byte(`{"x":1,"payloadType"`), 1)},
		{"in base64 for URLs", "not standard base64", envelope(func(e *dsse.Envelope) { e.Payload = strings.TrimRight(e.Payload, "=") + "-" })},
		{"with a line in the base64", "not standard base64", envelope(func(e *dsse.Envelope) { e.Payload = e.Payload[:4] + "\n" + e.Payload[4:] })},
		{"with bytes after it", "not JSON", append(slices.Clone(good), '{')},
		{"not JSON", "not JSON", []byte("stick.img")},
		{"a list", "not in the form of DSSE", []byte("[]")},
		{"too long", "more than", append(slices.Clone(good), bytes.Repeat([]byte(" "), MaxFile)...)},
	} {
		v, err := Demand(r.Contents, []File{{"x.json", c.data}}, publicKeys(t, 1), 1)
		if !errors.Is(err, manifest.ErrUntrusted) || len(v.Refused) != 1 || !strings.Contains(v.Refused[0].Reason, c.reason) {
			t.Errorf("%s: %+v, %v, want %q", c.name, v, err, c.reason)
			continue
		}
		if !strings.Contains(err.Error(), "x.json: "+v.Refused[0].Reason) || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
			t.Errorf("%s: %v", c.name, err)
		}
		// beside it, an honest statement counts
		if _, err := Demand(r.Contents, []File{{"x.json", c.data}, {"good.json", good}}, publicKeys(t, 1), 1); err != nil {
			t.Errorf("%s, beside a good one: %v", c.name, err)
		}
	}
}

func TestAttackOneRebuilderCountsOnce(t *testing.T) {
	r := testRebuilt()
	files := []File{{"a.json", statementOf(t, 1, r, nil)}, {"copy.json", statementOf(t, 1, r, nil)}, {"older.json", statementOf(t, 1, r, func(s *Statement) { s.Predicate.RunDetails.Builder.Version = nil })}}
	v, err := Demand(r.Contents, files, publicKeys(t, 1, 2), 2)
	if !errors.Is(err, manifest.ErrUntrusted) || len(v.Accepted) != 1 || len(v.Refused) != 2 || !strings.Contains(v.Refused[0].Reason, "has signed a.json too; a rebuilder counts once") {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := Demand(r.Contents, files, publicKeys(t, 1, 1), 2); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "the same key") {
		t.Errorf("one key named twice: %v", err)
	}
	for _, threshold := range []int{-1, 0, 3} {
		if _, err := Demand(r.Contents, files, publicKeys(t, 1, 2), threshold); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("threshold %d of 2: %v", threshold, err)
		}
	}
}

func TestOnlyAnEqualImageGetsAStatement(t *testing.T) {
	_, public := testKey(t, 1)
	r := testRebuilt()
	r.Equal, r.Difference = false, &imagebuild.Difference{Part: []string{"partition table"}}
	if _, err := New(r, public, ""); !errors.Is(err, cas.ErrCorrupt) {
		t.Errorf("an image that differs: %v", err)
	}
	r = testRebuilt()
	r.Listed = false
	if _, err := New(r, public, ""); !errors.Is(err, manifest.ErrUntrusted) {
		t.Errorf("packages that were not compared with Debian's lists: %v", err)
	}
	r.Unlisted = fs.ErrNotExist
	if _, err := New(r, public, ""); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "stick.img: equal to its rebuild, but not stated: ") {
		t.Errorf("no list to compare with: %v", err)
	}
	r = testRebuilt()
	r.CacheDiffers = true
	s, err := New(r, public, "")
	if err != nil || len(s.Subject) != 1 || s.Subject[0].Digest.SHA256 != sum("2") {
		t.Errorf("a used stick: %+v, %v", s, err)
	}
	if d := s.Predicate.BuildDefinition.ResolvedDependencies[0]; d.URI != "pkg:deb/debian/busybox-static@1%3A1.35.0-4%2Bb3?arch=amd64" {
		t.Errorf("dependency %+v", d)
	}
	r.Renewed = make([]imagebuild.BootSet, 1)
	if _, err := New(r, public, ""); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "1 boot sets were written after the image") {
		t.Errorf("a renewed stick: %v", err)
	}
	r.Renewed, r.BootSum = nil, ""
	if _, err := New(r, public, ""); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("nothing to state: %v", err)
	}
}

// foreign is a verifier of DSSE by its specification, in Python, with openssl for the signature.
const foreign = `import base64, json, subprocess, sys
e = json.load(open(sys.argv[1]))
payload, kind = base64.b64decode(e["payload"], validate=True), e["payloadType"].encode()
open("pae", "wb").write(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload))
open("sig", "wb").write(base64.b64decode(e["signatures"][0]["sig"], validate=True))
subprocess.run(["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key.pub", "-rawin", "-in", "pae", "-sigfile", "sig"], check=True)
s = json.loads(payload)
assert s["_type"] == "https://in-toto.io/Statement/v1" and s["predicateType"] == "https://slsa.dev/provenance/v1", s
print(s["subject"][0]["name"], s["subject"][0]["digest"]["sha256"])
`

func TestAForeignVerifierAcceptsTheEnvelope(t *testing.T) {
	dir := t.TempDir()
	_, public := testKey(t, 1)
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	good := statementOf(t, 1, testRebuilt(), nil)
	bad := bytes.Replace(good, []byte(`"sig":"`), []byte(`"sig":"AAAA`), 1)
	for name, data := range map[string][]byte{"key.pub": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "verify.py": []byte(foreign), "good": good, "bad": bad} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	verify := func(name string) ([]byte, error) {
		cmd := exec.Command("python3", "verify.py", name)
		cmd.Dir = dir
		return cmd.CombinedOutput()
	}
	if out, err := verify("good"); err != nil || !strings.HasSuffix(string(out), "stick.img "+sum("1")+"\n") {
		t.Errorf("%s, %v; run: scripts/deps-check.sh --install test", out, err)
	}
	if out, err := verify("bad"); err == nil {
		t.Errorf("another signature is accepted: %s", out)
	}
}

// FuzzStatement checks that no file makes Demand panic, or count without a signature.
func FuzzStatement(f *testing.F) {
	good := statementOf(f, 1, testRebuilt(), nil)
	f.Add(good)
	f.Add([]byte(`{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[{"keyid":"","sig":""}]}`))
	_, key := testKey(f, 1)
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := Demand(testRebuilt().Contents, []File{{"x.json", data}}, []ed25519.PublicKey{key}, 1)
		var compact, want bytes.Buffer
		if err == nil && (json.Compact(&compact, data) != nil || json.Compact(&want, good) != nil || !bytes.Equal(compact.Bytes(), want.Bytes())) {
			t.Errorf("counted: %+v", v)
		}
	})
}
