package machine

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func wantEd25519(t *testing.T, data []byte) {
	t.Helper()
	block, rest := pem.Decode(data)
	if block == nil || len(rest) != 0 {
		t.Fatalf("not one PEM block: %q", data)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if _, ok := key.(ed25519.PrivateKey); err != nil || !ok {
		t.Fatalf("%T, %v", key, err)
	}
}

func TestTheMachineKeyStaysOnAWritableCache(t *testing.T) {
	file := filepath.Join(t.TempDir(), "machine.key")
	first, kept, err := machineKey(file, true)
	if err != nil || !kept {
		t.Fatal(kept, err)
	}
	wantEd25519(t, first)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	second, kept, err := machineKey(file, false)
	if err != nil || !kept || !bytes.Equal(first, second) {
		t.Error("the second boot has another key", kept, err)
	}
}

func TestWithoutAWritableCacheEveryBootHasItsOwnKey(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "machine.key")
	for _, file := range []string{"", absent} {
		a, kept, err := machineKey(file, false)
		b, _, _ := machineKey(file, false)
		if err != nil || kept || bytes.Equal(a, b) {
			t.Errorf("%q: kept %v, %v", file, kept, err)
		}
		wantEd25519(t, a)
	}
	if exists(absent) {
		t.Error("a file was written")
	}
}

func TestAPoisonedKeyFileCostsTheIdentityNotTheBoot(t *testing.T) {
	dir := t.TempDir()
	for name, plant := range map[string]func(path string) error{
		"garbage":   func(p string) error { return os.WriteFile(p, []byte("garbage"), 0o600) },
		"empty":     func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"huge":      func(p string) error { return os.WriteFile(p, make([]byte, 1<<20), 0o600) },
		"pipe":      func(p string) error { return unix.Mkfifo(p, 0o600) },
		"directory": func(p string) error { return os.Mkdir(p, 0o700) },
		"link":      func(p string) error { return os.Symlink("/dev/zero", p) },
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(dir, name)
			if err := plant(file); err != nil {
				t.Fatal(err)
			}
			key, kept, err := machineKey(file, true)
			if err == nil || kept || !strings.Contains(err.Error(), file) {
				t.Errorf("kept %v, %v", kept, err)
			}
			wantEd25519(t, key)
		})
	}
}
