package imagebuild

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/authenticode"
)

// sbverify and openssl are the judges.
func TestSignedUKIIsAcceptedByOthersAndIsTheSameEachTime(t *testing.T) {
	b, dir := testBuilder(t), t.TempDir()
	keys, file := filepath.Join(dir, "sb"), filepath.Join(dir, "x.efi")
	if _, err := b.WriteKeys(t.Context(), testPlatform(t, "vm"), keys); err != nil {
		t.Fatal(err)
	}
	s := readSigner(t, keys)
	stub, parts := ukiSource(t, b)
	plain, err := joinUKI(stub, parts)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.Sign(slices.Clone(plain))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.Sign(slices.Clone(plain)); err != nil || !bytes.Equal(again, signed) {
		t.Errorf("signed again, it differs: %v", err)
	}
	if err := os.WriteFile(file, signed, 0o600); err != nil {
		t.Fatal(err)
	}
	output(t, "sbverify --cert "+keys+"/db.pem "+file)
	if out, err := exec.Command("sbverify", "--cert", keys+"/KEK.pem", file).CombinedOutput(); err == nil {
		t.Errorf("sbverify accepts it with another certificate: %s", out)
	}
	checkSectionTable(t, "x86_64", file, len(signed))
	c, err := b.Verify(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	if sum, err := sumFile(keys + "/db.der"); err != nil || c.Signer == nil || c.Signer.SHA256 != sum || c.Signer.Subject != "CN=Phase Boot db" {
		t.Errorf("signer: %+v, %v", c.Signer, err)
	}

	end := len(plain)
	resign := func(change func(b []byte) []byte) func(b []byte) []byte {
		return func([]byte) []byte {
			made, err := s.Sign(change(slices.Clone(plain)))
			if err != nil {
				t.Fatal(err)
			}
			return made
		}
	}
	h, err := readPEHeader(bytes.NewReader(signed), int64(len(signed)))
	if err != nil {
		t.Fatal(err)
	}
	size := h.at + 4 + binary.Size(h.file) + 112 + 8*dirCertificates + 4 // of the signature, in its data directory
	for name, change := range map[string]func(b []byte) []byte{
		"changed kernel":      func(b []byte) []byte { b[end-1024] ^= 1; return b },
		"changed stub":        func(b []byte) []byte { b[0x1000] ^= 1; return b },
		"changed signature":   func(b []byte) []byte { b[len(b)-20] ^= 1; return b },
		"changed certificate": func(b []byte) []byte { b[end+400] ^= 1; return b },
		"another type":        func(b []byte) []byte { b[end+6] ^= 1; return b },
		"bytes after":         func(b []byte) []byte { return append(b, 0) },
		"second signature": func(b []byte) []byte {
			binary.LittleEndian.PutUint32(b[size:], uint32(2*(len(b)-end)))
			return append(b, b[end:]...)
		},
		"signature cut":         func(b []byte) []byte { return b[:len(b)-8] },
		"empty signature":       func(b []byte) []byte { binary.LittleEndian.PutUint32(b[size:], 0); return b[:end] },
		"signed, with a gap":    resign(func(b []byte) []byte { return append(b, make([]byte, 512)...) }),
		"signed, another table": resign(func(b []byte) []byte { b[h.tableEnd()+2] = 1; return b }),
	} {
		data := change(slices.Clone(signed))
		if err := h.setChecksum(data); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Verify(t.Context(), file); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(file, plain, 0o600); err != nil {
		t.Fatal(err)
	}
	output(t, "sbsign --key "+keys+"/db.key --cert "+keys+"/db.pem --output "+file+" "+file)
	if _, err := b.Verify(t.Context(), file); !errors.Is(err, cas.ErrCorrupt) || !strings.Contains(err.Error(), "such as sbsign has signed it, make it again with --sb-key and --sb-cert") {
		t.Errorf("signed by another program: %v", err)
	}
}

// Three keys are made in a new folder, each readable by its owner only, and their variables have the
// form that efitools reads.
func TestKeysForSecureBoot(t *testing.T) {
	b, keys := testBuilder(t), filepath.Join(t.TempDir(), "sb")
	p := testPlatform(t, "vm")
	info, err := b.WriteKeys(t.Context(), p, keys)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range secureBootKeys {
		if s, err := os.Stat(filepath.Join(keys, name+".key")); err != nil || s.Mode().Perm() != 0o600 {
			t.Errorf("%s.key: %v, %v", name, s, err)
		}
		output(t, "openssl verify -CAfile "+keys+"/"+name+".pem "+keys+"/"+name+".pem")
		// the list of certificates is what follows the signature
		auth := read(t, filepath.Join(keys, name+".auth"))
		list := filepath.Join(t.TempDir(), "list")
		if err := os.WriteFile(list, auth[16+binary.LittleEndian.Uint32(auth[16:]):], 0o600); err != nil {
			t.Fatal(err)
		}
		output(t, "cd "+filepath.Dir(list)+" && sig-list-to-certs list cert")
		if !bytes.Equal(read(t, filepath.Join(filepath.Dir(list), "cert-0.der")), read(t, filepath.Join(keys, name+".der"))) {
			t.Errorf("%s.auth has another certificate", name)
		}
	}
	output(t, "fsck.fat -n "+info.Enroll)
	if _, err := b.WriteKeys(t.Context(), p, keys); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("into the same folder: %v", err)
	}
	if _, err := b.Verify(t.Context(), info.Enroll); !errors.Is(err, cas.ErrCorrupt) { // it boots nothing that has a root.json
		t.Errorf("verify: %v", err)
	}
}

// readSigner reads the key and the certificate of db from a folder of keys.
func readSigner(t *testing.T, keys string) *authenticode.Signer {
	t.Helper()
	key, err := authenticode.ParseKey(read(t, keys+"/db.key"))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := authenticode.ParseCertificate(read(t, keys+"/db.pem"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := authenticode.NewSigner(key, cert)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Debian's kernel, signed again, is accepted by other programs and by the rules of Linux.
func TestDebiansKernelIsSignedForKexec(t *testing.T) {
	b, dir := testBuilder(t), t.TempDir()
	s, err := makeKey("db")
	if err != nil {
		t.Fatal(err)
	}
	if err := writeKey(filepath.Join(dir, "db"), s, nil); err != nil {
		t.Fatal(err)
	}
	for _, flavour := range []string{"vm", "generic"} {
		file := filepath.Join(dir, flavour)
		k, err := b.Kernel(t.Context(), testPlatform(t, flavour), "")
		if err != nil {
			t.Fatal(err)
		}
		if err := b.WriteKernel(t.Context(), k, file); err != nil {
			t.Fatal(err)
		}
		check := func(data []byte) (bool, error) {
			return authenticode.CheckKernel(bytes.NewReader(data), int64(len(data)), s.Certificate)
		}
		if _, err := check(read(t, file)); !errors.Is(err, fs.ErrInvalid) { // its signature is right, and leads to Debian's certificate
			t.Errorf("%s, as Debian signs it: %v", flavour, err)
		}
		signed, err := s.SignKernel(read(t, file))
		if err != nil {
			t.Fatal(err)
		}
		if firmware, err := check(signed); err != nil || firmware {
			t.Errorf("%s: firmware %v, %v", flavour, firmware, err)
		}
		if err := os.WriteFile(file, signed, 0o600); err != nil {
			t.Fatal(err)
		}
		output(t, "sbverify --cert "+dir+"/db.pem "+file)
	}
}

// A stick with a signed UKI has no other file, and one without a signature is not accepted.
func TestSignedStickIsReadAsItsUKI(t *testing.T) {
	b, dir := testBuilder(t), t.TempDir()
	s, err := makeKey("db")
	if err != nil {
		t.Fatal(err)
	}
	stub, parts := ukiSource(t, b)
	plain, err := joinUKI(stub, parts)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.Sign(slices.Clone(plain))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		files map[string][]byte
		want  error
	}{
		"signed":               {map[string][]byte{"EFI/BOOT/BOOTX64.EFI": signed}, nil},
		"not signed":           {map[string][]byte{"EFI/BOOT/BOOTX64.EFI": plain}, cas.ErrCorrupt},
		"a kernel beside it":   {map[string][]byte{"EFI/BOOT/BOOTX64.EFI": signed, "phase/vmlinuz": parts[4]}, cas.ErrCorrupt},
		"credentials for it":   {map[string][]byte{"EFI/BOOT/BOOTX64.EFI": signed, "EFI/BOOT/x.cred": []byte("x")}, cas.ErrCorrupt},
		"for another firmware": {map[string][]byte{"EFI/BOOT/BOOTIA32.EFI": signed}, cas.ErrCorrupt},
	} {
		image := filepath.Join(dir, "esp")
		tree := &espTree{files: c.files, date: time.Unix(1.7e9, 0)}
		if err := errors.Join(os.WriteFile(image, nil, 0o600), b.makeESP(t.Context(), tree, image)); err != nil {
			t.Fatal(err)
		}
		found, err := b.Verify(t.Context(), image)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && (found.Kind != KindESP || !found.UKI || found.Signer.Subject != "CN=Phase Boot db" || found.Default != "local" || len(found.Entries) != 1) {
			t.Errorf("%s: %+v", name, found)
		}
	}
}
