package key

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
)

func fixed(phrase string) PassFunc {
	return func(context.Context, string, Ask) ([]byte, error) { return []byte(phrase), nil }
}

func mustGenerate(t testing.TB, path string, pass PassFunc) Key {
	t.Helper()
	k, err := Generate(t.Context(), path, pass)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestGeneratedKeyLoadsAndSigns(t *testing.T) {
	for name, pass := range map[string]PassFunc{"encrypted": fixed("correct horse"), "plain": nil} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "k")
			made := mustGenerate(t, path, pass)
			k, err := Load(t.Context(), path, pass)
			if err != nil {
				t.Fatal(err)
			}
			if !k.Public().Equal(made.Public()) {
				t.Fatal("the loaded key is another one")
			}
			sig, err := k.Signer().SignMessage(bytes.NewReader([]byte("release")))
			if err != nil || !ed25519.Verify(made.Public(), []byte("release"), sig) {
				t.Fatalf("signature %x, %v", sig, err)
			}
			if private, err := k.Private(); err != nil || !private.Public().(ed25519.PublicKey).Equal(made.Public()) {
				t.Fatalf("private half: %v", err)
			}
			for _, file := range []string{path, path + ".pub"} {
				if public, err := LoadPublic(t.Context(), file, pass); err != nil || !public.Equal(made.Public()) {
					t.Fatalf("%s: %v", file, err)
				}
			}
			if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
				t.Fatalf("mode %v, %v; want 0600", info.Mode(), err)
			}
		})
	}
}

func TestEncryptedFileHoldsNoPlainKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k")
	private, err := mustGenerate(t, path, fixed("secret")).Private()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := cryptoutils.MarshalPrivateKeyToPEM(private)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(data, []byte("ENCRYPTED SIGSTORE PRIVATE KEY")) || bytes.Contains(data, plain) {
		t.Fatalf("not encrypted:\n%s", data)
	}
	opened, err := cryptoutils.UnmarshalPEMToPrivateKey(data, cryptoutils.StaticPasswordFunc([]byte("secret")))
	if err != nil || !private.Equal(opened) {
		t.Fatalf("sigstore's own reader: %v", err)
	}
}

func TestGenerateRefusesAnEmptyPassphrase(t *testing.T) {
	dir := t.TempDir()
	for name, phrase := range map[string][]byte{"nil": nil, "empty": {}} {
		pass := func(context.Context, string, Ask) ([]byte, error) { return phrase, nil }
		if _, err := Generate(t.Context(), filepath.Join(dir, name), pass); !errors.Is(err, ErrNoPassphrase) {
			t.Errorf("%s: got %v, want ErrNoPassphrase", name, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestGenerateNeverReplacesAFile(t *testing.T) {
	for _, taken := range []string{"k", "k.pub"} {
		t.Run(taken, func(t *testing.T) {
			dir := t.TempDir()
			old := filepath.Join(dir, taken)
			if err := os.WriteFile(old, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Generate(t.Context(), filepath.Join(dir, "k"), nil); !errors.Is(err, fs.ErrExist) {
				t.Fatalf("got %v, want fs.ErrExist", err)
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != 1 {
				t.Fatalf("names: %v, %v", entries, err)
			}
			if data, err := os.ReadFile(old); err != nil || string(data) != "precious" {
				t.Fatalf("the old file holds %q, %v", data, err)
			}
		})
	}
}

func TestLoadRefusals(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	encrypted := filepath.Join(dir, "encrypted")
	mustGenerate(t, encrypted, fixed("right"))
	whole, err := os.ReadFile(encrypted)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecPEM, err := cryptoutils.MarshalPrivateKeyToPEM(foreign)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, uri string
		pass      PassFunc
		want      error
	}{
		{"missing file", filepath.Join(dir, "nothing"), nil, fs.ErrNotExist},
		{"directory", dir, nil, syscall.EISDIR},
		{"empty file", put("empty", nil), nil, cas.ErrCorrupt},
		{"not PEM", put("text", []byte("hello")), nil, cas.ErrCorrupt},
		{"truncated PEM", put("half", whole[:len(whole)/2]), fixed("right"), cas.ErrCorrupt},
		{"garbled body", put("garbled", []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")), nil, cas.ErrCorrupt},
		{"endless file", "/dev/zero", nil, file.ErrKind},
		{"another PEM", put("cert", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")), nil, fs.ErrInvalid},
		{"ECDSA key", put("ecdsa", ecPEM), nil, fs.ErrInvalid},
		{"public half", encrypted + ".pub", nil, fs.ErrInvalid},
		{"wrong passphrase", encrypted, fixed("wrong"), ErrPassphrase},
		{"empty passphrase", encrypted, fixed(""), ErrNoPassphrase},
		{"no way to ask", encrypted, nil, ErrNoPassphrase},
		{"plugin that is not installed", "nosuchkms://key/1", nil, fs.ErrNotExist},
		{"agent name without fingerprint", "ssh-agent:mykey", nil, fs.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Load(t.Context(), c.uri, c.pass); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestPassphraseSources(t *testing.T) {
	file := filepath.Join(t.TempDir(), "phrase")
	if err := os.WriteFile(file, []byte("from the file\r\nsecond line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(PassphraseEnv, "from the environment")
	for path, want := range map[string]string{file: "from the file", "": "from the environment"} {
		if got, err := Passphrases(path)(t.Context(), "k", Unlock); err != nil || string(got) != want {
			t.Errorf("%q: got %q, %v; want %q", path, got, err, want)
		}
	}
}

func TestAMissingPassphraseFileIsNamedInTheError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k")
	mustGenerate(t, path, fixed("correct horse"))
	_, err := Load(t.Context(), path, Passphrases("nope"))
	if !errors.Is(err, fs.ErrNotExist) || errors.Is(err, cas.ErrCorrupt) || !strings.Contains(err.Error(), "passphrase file nope: ") || strings.Contains(err.Error(), "backup") {
		t.Errorf("got %v", err)
	}
}
