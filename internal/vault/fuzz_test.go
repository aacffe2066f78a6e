package vault

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"unicode"
)

// Whatever Vault, or a proxy before it, answers: a key has 32 bytes, a signature verifies,
// and a refusal is one printable line.
func FuzzAnswers(f *testing.F) {
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	public := private.Public().(ed25519.PublicKey)
	message := []byte("release")
	sig := base64.StdEncoding.EncodeToString(ed25519.Sign(private, message))
	f.Add(200, fmt.Appendf(nil, `{"data": {"type": "ed25519", "latest_version": 2, "keys": {"1": {}, "2": {"public_key": %q}}}}`, base64.StdEncoding.EncodeToString(public)))
	f.Add(200, fmt.Appendf(nil, `{"data": {"signature": "vault:v2:%s"}}`, sig))
	f.Add(200, []byte(`{"data": null}`))
	f.Add(403, []byte(`{"errors": ["1 error occurred:\n\t* permission denied\n\n"]}`))
	f.Add(404, []byte("<html>\x1b[2J"))
	f.Fuzz(func(t *testing.T, status int, data []byte) {
		var answer keyAnswer
		if err := readAnswer(status, data, &answer); err != nil {
			printableLine(t, err)
		} else if key, err := answer.newest(); err != nil {
			printableLine(t, err)
		} else if len(key) != ed25519.PublicKeySize {
			t.Errorf("a key of %d bytes", len(key))
		}
		var signature signatureAnswer
		if err := readAnswer(status, data, &signature); err != nil {
			printableLine(t, err)
		} else if got, err := signature.verified(&key{version: 2, public: public}, message); err == nil && !bytes.Equal(got, ed25519.Sign(private, message)) {
			t.Errorf("signature %x", got)
		}
	})
}

func printableLine(t *testing.T, err error) {
	t.Helper()
	if strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("%q", err)
	}
}
