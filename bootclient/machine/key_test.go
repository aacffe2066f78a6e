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

func TestTheMachineKeyStaysOnAWritableCache(t *testing.T) {
	file := filepath.Join(t.TempDir(), "machine.key")
	first, words, err := machineKey(file, true)
	if err != nil || words == ephemeral {
		t.Fatal(words, err)
	}
	wantEd25519(t, first)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	second, words, err := machineKey(file, false)
	if err != nil || words == ephemeral || !bytes.Equal(first, second) {
		t.Error("the second boot has another key", words, err)
	}
}

func TestWithoutAWritableCacheEveryBootHasItsOwnKey(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "machine.key")
	for _, file := range []string{"", absent} {
		a, words, err := machineKey(file, false)
		b, _, _ := machineKey(file, false)
		if err != nil || words != ephemeral || bytes.Equal(a, b) {
			t.Errorf("%q: %q, %v", file, words, err)
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
			if err := errors.Join(os.WriteFile(outside, []byte("another's"), 0o600), plant(file)); err != nil {
				t.Fatal(err)
			}
			key, words, err := machineKey(file, false)
			if !errors.Is(err, errBadKey) || words != ephemeral {
				t.Errorf("a cache that is only read: %q, %v", words, err)
			}
			wantEd25519(t, key)
			key, words, err = machineKey(file, true)
			if err != nil || !strings.Contains(words, "damaged") || !strings.Contains(words, "a new one") {
				t.Errorf("%q, %v", words, err)
			}
			next, words, err := machineKey(file, true)
			if err != nil || strings.Contains(words, "damaged") || !bytes.Equal(key, next) {
				t.Errorf("the next boot: %q, %v", words, err)
			}
			if data, err := os.ReadFile(outside); err != nil || string(data) != "another's" {
				t.Errorf("the file behind the link: %q, %v", data, err)
			}
		})
	}
}
