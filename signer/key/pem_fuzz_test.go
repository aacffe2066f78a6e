package key

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"strings"
	"testing"
)

// A key file with any content is refused or gives a key that signs, and whose public half is read
// back unchanged.
func FuzzKeyFile(f *testing.F) {
	seed := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	plain, public, err := marshalKey(seed, nil)
	if err != nil {
		f.Fatal(err)
	}
	locked, _, err := marshalKey(seed, []byte("phrase"))
	if err != nil {
		f.Fatal(err)
	}
	for _, data := range [][]byte{plain, public, locked, locked[:100], append([]byte("words\n"), plain...), []byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me"), nil} {
		f.Add(data)
	}
	noPhrase := func(context.Context, string, Ask) ([]byte, error) { return nil, ErrNoPassphrase }
	f.Fuzz(func(t *testing.T, data []byte) {
		if k, err := parsePEM(t.Context(), "k", data, noPhrase); err == nil {
			signs(t, k)
		}
		key, err := parsePublic(data)
		if err != nil {
			return
		}
		if len(key) != ed25519.PublicKeySize {
			t.Fatalf("a public key of %d bytes", len(key))
		}
	})
}

func signs(t *testing.T, k Key) {
	t.Helper()
	sig, err := k.signer.SignMessage(strings.NewReader("release"))
	if err != nil || !ed25519.Verify(k.public, []byte("release"), sig) {
		t.Fatalf("signature %x, %v", sig, err)
	}
	_, public, err := marshalKey(k.private, nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := parsePublic(public); err != nil || !again.Equal(k.public) {
		t.Fatalf("read back as %x, %v", again, err)
	}
}

// The encryption parameters in a key file cannot make the program use much memory or crash.
func FuzzEncryptedKey(f *testing.F) {
	locked, _, err := marshalKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), []byte("phrase"))
	if err != nil {
		f.Fatal(err)
	}
	block, _ := pem.Decode(locked)
	f.Add(block.Bytes)
	f.Add([]byte(`{"kdf":{"name":"scrypt","params":{"N":1099511627776,"r":8,"p":1},"salt":"AAAA"},"cipher":{"name":"nacl/secretbox","nonce":"AAAA"},"ciphertext":"AAAA"}`))
	f.Add([]byte(`{"kdf":{"name":"scrypt","params":{"N":-1,"r":0,"p":0}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		pass := func(_ context.Context, _ string, ask Ask) ([]byte, error) {
			if ask == Retry {
				return nil, errSame // scrypt is slow
			}
			return []byte("phrase"), nil
		}
		if key, err := decrypt(t.Context(), "k", &pem.Block{Bytes: data}, pass); err == nil && key == nil {
			t.Error("no key and no error")
		}
	})
}
