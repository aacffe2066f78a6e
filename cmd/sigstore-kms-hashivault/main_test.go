package main

import (
	"crypto/ed25519"
	"os/exec"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/internal/scripttest"
	"github.com/phaseboot/phaseboot/internal/vault/vaulttest"
	"github.com/phaseboot/phaseboot/signer/key"
)

// TestMain puts the program in PATH, where package key looks for it.
func TestMain(m *testing.M) {
	scripttest.Main(m, map[string]func() int{"sigstore-kms-hashivault": run})
}

func TestKeyInVaultSignsByItsURI(t *testing.T) {
	v := vaulttest.Serve(t)
	k, err := key.Load(t.Context(), "hashivault://release", nil)
	if err != nil {
		t.Fatal(err)
	}
	if !k.Public().Equal(v.Newest()) {
		t.Error("not the newest version of the key")
	}
	sig, err := k.Signer().SignMessage(strings.NewReader("release"))
	if err != nil || !ed25519.Verify(k.Public(), []byte("release"), sig) {
		t.Fatalf("signature %x, %v", sig, err)
	}
	v.Rotate() // a release that lists the old version must not be signed by the new one
	if _, err := k.Signer().SignMessage(strings.NewReader("release")); err == nil || !strings.Contains(err.Error(), "has the key changed?") {
		t.Errorf("after a rotation: %v", err)
	}
	v.Corrupt()
	if _, err := k.Signer().SignMessage(strings.NewReader("release")); err == nil || !strings.Contains(err.Error(), "vault: wrong signature") {
		t.Errorf("a wrong signature: %v", err)
	}
}

func TestRefusalReachesTheCaller(t *testing.T) {
	vaulttest.Serve(t)
	_, err := key.Load(t.Context(), "hashivault://missing", nil)
	if err == nil || !strings.Contains(err.Error(), "key hashivault://missing: KMS plugin: ") || !strings.Contains(err.Error(), "no such key; make it with") {
		t.Errorf("got %v", err)
	}
}

func TestVersionIsPrinted(t *testing.T) {
	out, err := exec.Command("sigstore-kms-hashivault", "--version").Output()
	if err != nil || !strings.HasPrefix(string(out), "sigstore-kms-hashivault ") {
		t.Errorf("%q, %v", out, err)
	}
}

func TestRunByHandNamesThePhaseSignCommand(t *testing.T) {
	for _, args := range [][]string{nil, {"--help"}, {"v1", "{}"}} {
		out, err := exec.Command("sigstore-kms-hashivault", args...).Output()
		if err == nil || !strings.Contains(string(out), "phase-sign --key hashivault://NAME") {
			t.Errorf("%q: %q, %v", args, out, err)
		}
	}
}
