package authenticode

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/internal/bootfile/bootfiletest"
)

// newSigner makes a key with a certificate, signed by above or, if that is nil, by itself.
func newSigner(t testing.TB, name string, above *Signer) *Signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, KeyBits)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(int64(len(name))), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	parent, by := template, any(k)
	if above != nil {
		parent, by = above.Certificate, above.Key
	}
	data, err := x509.CreateCertificate(rand.Reader, template, parent, k.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(data)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSigner(k, cert)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testKernel() []byte { return bootfiletest.EFIKernel(strings.Repeat("0123456789abcdef", 64)) }

func signKernel(t testing.TB, s *Signer, kernel []byte) []byte {
	t.Helper()
	signed, err := s.SignKernel(slices.Clone(kernel))
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func check(kernel []byte, cert *x509.Certificate) (bool, error) {
	return CheckKernel(bytes.NewReader(kernel), int64(len(kernel)), cert)
}

// files writes the parts of a signature for other programs, and returns their folder.
func files(t *testing.T, s *Signer, kernel []byte) string {
	t.Helper()
	dir := t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(s.Key)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"kernel": kernel, "cert": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate.Raw}),
		"key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func run(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-euc", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// sbverify is the judge.
func TestASignedKernelIsForKexecOnly(t *testing.T) {
	s := newSigner(t, "db", nil)
	signed := signKernel(t, s, testKernel())
	run(t, files(t, s, signed), "sbverify --cert cert kernel")
	if firmware, err := check(signed, s.Certificate); err != nil || firmware {
		t.Errorf("firmware %v, %v", firmware, err)
	}
	if err := bootfile.CheckKernel(bytes.NewReader(signed), int64(len(signed)), "x86_64"); err != nil {
		t.Error(err)
	}
	if again := signKernel(t, s, signed); !bytes.Equal(again, signed) {
		t.Error("signed again, it differs")
	}
	other := newSigner(t, "other", nil)
	if again := signKernel(t, s, signKernel(t, other, testKernel())); !bytes.Equal(again, signed) {
		t.Error("signed after another signature, it differs")
	}
	if _, err := check(signed, other.Certificate); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), `signed by "CN=db", issued by "CN=db", and not by "CN=other"`) {
		t.Errorf("another certificate: %v", err)
	}
}

// A signature of sbsign is accepted, also below a certificate authority, with the word that firmware
// starts the kernel.
func TestAKernelThatAnotherProgramSigned(t *testing.T) {
	db := newSigner(t, "db", nil)
	leaf := newSigner(t, "signer", db)
	for name, signer := range map[string]*Signer{"db itself": db, "below db": leaf} {
		dir := files(t, signer, testKernel())
		run(t, dir, "sbsign --key key --cert cert --output signed kernel; cp signed twice; sbsign --key key --cert cert --output twice twice")
		signed, err := os.ReadFile(filepath.Join(dir, "signed"))
		if err != nil {
			t.Fatal(err)
		}
		if firmware, err := check(signed, db.Certificate); err != nil || !firmware {
			t.Errorf("%s: firmware %v, %v", name, firmware, err)
		}
		if _, err := check(signed, newSigner(t, "db", nil).Certificate); !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s, another certificate of that name: %v", name, err)
		}
		twice, err := os.ReadFile(filepath.Join(dir, "twice"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := check(twice, db.Certificate); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s, two signatures, which Linux refuses: %v", name, err)
		}
	}
}

func TestAKernelThatKexecWouldRefuse(t *testing.T) {
	s := newSigner(t, "db", nil)
	plain := testKernel()
	signed := signKernel(t, s, plain)
	p, err := readProgram(bytes.NewReader(signed), int64(len(signed)))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		want   error
	}{
		"no signature":          {func([]byte) []byte { return plain }, fs.ErrInvalid},
		"a changed byte":        {func(b []byte) []byte { b[1500] ^= 1; return b }, cas.ErrCorrupt},
		"marked as EFI program": {func(b []byte) []byte { b[p.subsystem()] = subsystemEFI; return b }, cas.ErrCorrupt},
		"a changed signature":   {func(b []byte) []byte { b[len(b)-40] ^= 1; return b }, cas.ErrCorrupt},
		"a signature cut short": {func(b []byte) []byte { return b[:len(b)-8] }, cas.ErrCorrupt},
		"bytes after it":        {func(b []byte) []byte { return append(b, make([]byte, 8)...) }, cas.ErrCorrupt},
		"an empty signature":    {func(b []byte) []byte { little.PutUint32(b[p.directory()+4:], 0); return b[:p.start] }, cas.ErrCorrupt},
		"another kind":          {func(b []byte) []byte { b[p.start+6]++; return b }, cas.ErrCorrupt},
		"another revision":      {func(b []byte) []byte { b[p.start+4]++; return b }, cas.ErrCorrupt},
		"bytes in no section": {func(b []byte) []byte {
			little.PutUint32(b[0x280+24+160+16:], 512)
			little.PutUint32(b[0x280+24+160+20:], 1536)
			return b
		}, cas.ErrCorrupt},
		"no room for signatures": {func(b []byte) []byte { b[p.optional+countField] = 4; return b }, cas.ErrCorrupt},
		"not EFI":                {func([]byte) []byte { return bootfiletest.Kernel("x86_64", "0123456789abcdef") }, cas.ErrCorrupt},
		"empty":                  {func([]byte) []byte { return nil }, cas.ErrCorrupt},
	} {
		if _, err := check(c.change(slices.Clone(signed)), s.Certificate); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	checksum := slices.Clone(signed) // no program reads it
	checksum[p.checksum()] ^= 1
	if _, err := check(checksum, s.Certificate); err != nil {
		t.Errorf("another checksum: %v", err)
	}
}

// Whatever the file: what CheckKernel accepts has the digest of its bytes signed, and SignKernel of it
// is accepted.
func FuzzCheckKernel(f *testing.F) {
	s := newSigner(f, "db", nil)
	f.Add(testKernel())
	f.Add(signKernel(f, s, testKernel()))
	f.Fuzz(func(t *testing.T, data []byte) {
		Read(bytes.NewReader(data), int64(len(data)))
		if firmware, err := check(data, s.Certificate); err == nil && firmware {
			t.Error("accepted, and it was not signed for firmware")
		}
		signed, err := s.SignKernel(slices.Clone(data))
		if err != nil {
			return
		}
		if firmware, err := check(signed, s.Certificate); err != nil || firmware {
			t.Errorf("firmware %v, %v", firmware, err)
		}
	})
}
