package ed25519pem

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
)

func TestAKeyIsReadBackAsItWasWritten(t *testing.T) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	public := key.Public().(ed25519.PublicKey)
	data, err := Marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Parse(append(data, "text behind it\n"...)); err != nil || !got.Equal(key) {
		t.Errorf("private key: %v", err)
	}
	if data, err = MarshalPublic(public); err != nil {
		t.Fatal(err)
	}
	if got, err := ParsePublic(data); err != nil || !got.Equal(public) {
		t.Errorf("public key: %v", err)
	}
}

func TestOtherFilesAreRefused(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(other)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(other.Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		kind string
		der  []byte
		says string
	}{
		"no PEM":          {"", nil, "no PEM block"},
		"another block":   {"CERTIFICATE", []byte("x"), `a PEM block "CERTIFICATE"`},
		"damaged private": {PrivateType, []byte("x"), "PKCS #8: "},
		"damaged public":  {PublicType, []byte("x"), "PKIX: "},
		"an ECDSA key":    {PrivateType, private, "ECDSA key: is not Ed25519"},
		"its public half": {PublicType, public, "ECDSA key: is not Ed25519"},
	} {
		t.Run(name, func(t *testing.T) {
			var data []byte
			if c.kind != "" {
				data = pem.EncodeToMemory(&pem.Block{Type: c.kind, Bytes: c.der})
			}
			_, one := Parse(data)
			_, two := ParsePublic(data)
			if one == nil || two == nil || !strings.Contains(errors.Join(one, two).Error(), c.says) {
				t.Errorf("got %v and %v", one, two)
			}
		})
	}
}
