package docs

import (
	"crypto/ed25519"
	"encoding/base64"
	"os"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/phaseboot/phaseboot/internal/envelope"
)

// large adds a root filesystem of several leaves; the artifacts of beforehand have one each. It is
// the same at each run: a run of random bytes could begin with a leaf of 16 KiB and one of 256 KiB.
const large = `
seq 500000 | head -c 3000000 > artifacts/rootfs
rm release.json
phase-sign release --unchecked --repo repo --channel stable --arch x86_64 --release 1 --kernel artifacts/kernel --initramfs artifacts/initramfs \
    --rootfs artifacts/rootfs --key keys/release --out release.json
`

func TestTheCommandsOfProtocolWorkAsTheyStand(t *testing.T) {
	text, err := os.ReadFile("PROTOCOL.md")
	check(t, err)
	script := beforehand + large
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		script += m[1]
	}
	if strings.Count(script, "curl ") < 8 {
		t.Fatal("PROTOCOL.md has fewer than 8 curl commands")
	}
	work(t, script, "serve.log")
}

// The form of the envelope in PROTOCOL.md is the one form that a publisher takes.
func TestTheEnvelopeOfProtocolIsTheOneForm(t *testing.T) {
	text, err := os.ReadFile("PROTOCOL.md")
	check(t, err)
	form := `{"payloadType":"…","payload":"…","signatures":[{"keyid":"…","sig":"…"}]}`
	if !strings.Contains(string(text), "`"+form+"`") {
		t.Fatalf("PROTOCOL.md does not have %s", form)
	}
	public, key, err := ed25519.GenerateKey(nil)
	check(t, err)
	signer, err := signature.LoadED25519Signer(key)
	check(t, err)
	e, err := envelope.Sign(t.Context(), envelope.InToto, []byte("{}"), signer, public)
	check(t, err)
	for _, value := range []string{envelope.InToto, base64.StdEncoding.EncodeToString(e.Payload), e.KeyID, base64.StdEncoding.EncodeToString(e.Signature)} {
		form = strings.Replace(form, "…", value, 1)
	}
	if _, err := envelope.Parse([]byte(form), envelope.InToto, len(form)); err != nil {
		t.Errorf("%s: %v", form, err)
	}
}
