package imagebuild

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"strings"
	"testing"
	"time"
)

// testAuthority returns a key, and makes certificates for it.
func testAuthority(t *testing.T) (*ecdsa.PrivateKey, func(name string, authority bool) []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key, func(name string, authority bool) []byte {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: authority, BasicConstraintsValid: true, NotAfter: time.Unix(1e9, 0),
		}
		der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
}

func TestFormatAuthoritiesAreCertificatesOfAuthoritiesOnly(t *testing.T) {
	key, certificate := testAuthority(t)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	private := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	one, two := certificate("one", true), certificate("two", true)
	for name, tt := range map[string]struct {
		text, want []byte
		words      string
	}{
		"none":                 {nil, nil, ""},
		"one":                  {one, one, ""},
		"two, with other text": {bytes.Join([][]byte{[]byte("one:\n"), one, []byte("two:\n"), two}, nil), append(bytes.Clone(one), two...), ""},
		"a private key":        {append(bytes.Clone(one), private...), nil, `"EC PRIVATE KEY"; the file may contain certificates only`},
		"a server":             {certificate("mirror", false), nil, "CN=mirror\": not an authority"},
		"no PEM":               {[]byte("text"), nil, "no certificate in PEM found"},
		"damaged":              {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil, "certificate authority: x509"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseAuthorities(tt.text)
			if !bytes.Equal(got, tt.want) || (err == nil) != (tt.words == "") || err != nil && (!strings.Contains(err.Error(), tt.words) || !errors.Is(err, fs.ErrInvalid)) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}
