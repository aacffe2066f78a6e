package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/internal/vault/vaulttest"
)

func TestReleaseSignedByAKeyInVault(t *testing.T) {
	vaulttest.Serve(t)
	t.Chdir(t.TempDir())
	if err := os.WriteFile("vmlinuz", []byte("the kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(`key generate --no-passphrase --out root.key
key generate --no-passphrase --out online.key
key generate --no-passphrase --out ipns.key
init --repo repo --root-key root.key --release-key hashivault://release --online-key online.key --ipns-key ipns.key --channel stable --arch x86_64
release --unchecked --repo repo --channel stable --arch x86_64 --release 1 --kernel vmlinuz --initramfs vmlinuz --key hashivault://release --out R.json
verify --root repo/root.json R.json
`) {
		out, err := exec.Command("phase-sign", strings.Fields(line)...).CombinedOutput()
		if err != nil {
			t.Fatalf("phase-sign %s%v: %s", line, err, out)
		}
	}
}
