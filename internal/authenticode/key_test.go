package authenticode

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
)

func TestOnlyAKeyThatAllFirmwareKnowsSigns(t *testing.T) {
	db, other := newSigner(t, "db", nil), newSigner(t, "other", nil)
	if _, err := NewSigner(db.Key, other.Certificate); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("certificate of another key: %v", err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewSigner(curve, db.Certificate); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("elliptic curve: %v", err)
	}
	sec1, err := x509.MarshalPKCS8PrivateKey(curve)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		block *pem.Block
		want  error
	}{
		"not PEM":        {nil, cas.ErrCorrupt},
		"encrypted":      {&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{1}}, fs.ErrInvalid},
		"not a key":      {&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}, fs.ErrInvalid},
		"elliptic curve": {&pem.Block{Type: "PRIVATE KEY", Bytes: sec1}, fs.ErrInvalid},
	} {
		data := []byte("text")
		if c.block != nil {
			data = pem.EncodeToMemory(c.block)
		}
		if _, err := ParseKey(data); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := ParseCertificate(data); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s as a certificate: %v", name, err)
		}
	}
}

// A key elsewhere that signs in another scheme, or was changed meanwhile, signs nothing.
func TestASignatureIsVerifiedBeforeItIsUsed(t *testing.T) {
	db, other := newSigner(t, "db", nil), newSigner(t, "other", nil)
	if _, err := (&Signer{Key: other.Key, Certificate: db.Certificate}).SignKernel(testKernel()); err == nil {
		t.Error("the signature of another key was used")
	}
}
