package vault

import (
	"crypto/ed25519"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/internal/vault/vaulttest"
)

func TestAKeySignsWithTheVersionThatWasLoaded(t *testing.T) {
	v := vaulttest.Serve(t)
	k, err := load(t.Context(), "release")
	if err != nil {
		t.Fatal(err)
	}
	if !k.public.Equal(v.Newest()) {
		t.Error("not the newest version of the key")
	}
	v.Rotate()
	sig, err := k.sign(t.Context(), []byte("release"))
	if err != nil || !ed25519.Verify(k.public, []byte("release"), sig) {
		t.Errorf("signature %x, %v", sig, err)
	}
	v.Corrupt()
	if _, err := k.sign(t.Context(), []byte("release")); err == nil || !strings.Contains(err.Error(), "wrong signature") {
		t.Errorf("a wrong signature: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	for _, row := range []struct{ what, name, variable, value, says string }{
		{"no such key", "missing", "", "", "no such key; make it with 'vault write transit/keys/NAME type=ed25519'"},
		{"a key of another type", "ecdsa", "", "", `type "ecdsa-p256"; only ed25519`},
		{"a name that is a path", "../sys", "", "", "write hashivault://NAME"},
		{"a token that may not", "release", "VAULT_TOKEN", "s.other", "permission denied"},
		{"no token", "release", "VAULT_TOKEN", "", "set VAULT_TOKEN"},
		{"no address", "release", "VAULT_ADDR", "", "VAULT_ADDR"},
		{"no server", "release", "VAULT_ADDR", "http://127.0.0.1:1", "connection refused"},
		{"a redirection is not followed", "moved", "", "", "status 307"},
	} {
		t.Run(row.what, func(t *testing.T) {
			vaulttest.Serve(t)
			if row.variable != "" {
				t.Setenv(row.variable, row.value)
			}
			if _, err := load(t.Context(), row.name); err == nil || !strings.Contains(err.Error(), row.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}
