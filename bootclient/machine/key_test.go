package machine

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
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

func TestTheMachineKeyIsKeptOnAWritableCache(t *testing.T) {
	file := filepath.Join(t.TempDir(), "machine.key")
	first, summary, err := machineKey(file, true)
	if err != nil || summary == ephemeral {
		t.Fatal(summary, err)
	}
	wantEd25519(t, first)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	second, summary, err := machineKey(file, false)
	if err != nil || summary == ephemeral || !bytes.Equal(first, second) {
		t.Error("the second boot has another key", summary, err)
	}
}

func TestWithoutAWritableCacheEveryBootHasItsOwnKey(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "machine.key")
	for _, file := range []string{"", absent} {
		a, summary, err := machineKey(file, false)
		b, _, _ := machineKey(file, false)
		if err != nil || summary != ephemeral || bytes.Equal(a, b) {
			t.Errorf("%q: %q, %v", file, summary, err)
		}
		wantEd25519(t, a)
	}
	if exists(absent) {
		t.Error("a file was written")
	}
}

func TestADamagedKeyFileIsReplacedOnce(t *testing.T) {
	for name, plant := range map[string]func(path string) error{
		"garbage":   func(p string) error { return os.WriteFile(p, []byte("garbage"), 0o600) },
		"empty":     func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"huge":      func(p string) error { return os.WriteFile(p, make([]byte, 1<<20), 0o600) },
		"pipe":      func(p string) error { return unix.Mkfifo(p, 0o600) },
		"directory": func(p string) error { return os.MkdirAll(filepath.Join(p, "full"), 0o700) },
		"link":      func(p string) error { return os.Symlink(filepath.Join(filepath.Dir(p), "outside"), p) },
		"device":    func(p string) error { return os.Symlink("/dev/zero", p) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file, outside := filepath.Join(dir, "machine.key"), filepath.Join(dir, "outside")
			if err := errors.Join(os.WriteFile(outside, []byte("other data"), 0o600), plant(file)); err != nil {
				t.Fatal(err)
			}
			key, summary, err := machineKey(file, false)
			if !errors.Is(err, errBadKey) || summary != ephemeral {
				t.Errorf("a read-only cache: %q, %v", summary, err)
			}
			wantEd25519(t, key)
			key, summary, err = machineKey(file, true)
			if err != nil || !strings.Contains(summary, "damaged") || !strings.Contains(summary, "a new one") {
				t.Errorf("%q, %v", summary, err)
			}
			next, summary, err := machineKey(file, true)
			if err != nil || strings.Contains(summary, "damaged") || !bytes.Equal(key, next) {
				t.Errorf("the next boot: %q, %v", summary, err)
			}
			if data, err := os.ReadFile(outside); err != nil || string(data) != "other data" {
				t.Errorf("the target of the link: %q, %v", data, err)
			}
		})
	}
}
