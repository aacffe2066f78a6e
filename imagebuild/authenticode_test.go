package imagebuild

import (
	"bytes"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

// sbverify and openssl are the judges.
func TestSignedUKIIsAcceptedByOthersAndIsTheSameEachTime(t *testing.T) {
	b, dir := testBuilder(t), t.TempDir()
	keys, file := filepath.Join(dir, "sb"), filepath.Join(dir, "x.efi")
	if _, err := b.WriteKeys(t.Context(), testPlatform(t, "vm"), keys); err != nil {
		t.Fatal(err)
	}
	s, err := ReadSigning(read(t, keys+"/db.key"), read(t, keys+"/db.pem"))
	if err != nil {
		t.Fatal(err)
	}
	stub, parts := ukiSource(t, b)
	plain, err := joinUKI(stub, parts)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.sign(slices.Clone(plain))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.sign(slices.Clone(plain)); err != nil || !bytes.Equal(again, signed) {
		t.Errorf("signed again, it differs: %v", err)
	}
	if err := os.WriteFile(file, signed, 0o600); err != nil {
		t.Fatal(err)
	}
	output(t, "sbverify --cert "+keys+"/db.pem "+file)
	if out, err := exec.Command("sbverify", "--cert", keys+"/KEK.pem", file).CombinedOutput(); err == nil {
		t.Errorf("sbverify accepts it with another certificate: %s", out)
	}
	checkSectionTable(t, file, len(signed))
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
			made, err := s.sign(change(slices.Clone(plain)))
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
	size := h.certificatesAt() + 4
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
	key, cert := read(t, keys+"/db.key"), read(t, keys+"/db.pem")
	for name, c := range map[string]struct {
		key, cert []byte
		want      error
	}{
		"another certificate": {key, read(t, keys+"/PK.pem"), fs.ErrInvalid},
		"a text":              {[]byte("key"), cert, cas.ErrCorrupt},
		"no certificate":      {key, []byte("text"), cas.ErrCorrupt},
		"encrypted":           {pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{1}}), cert, fs.ErrInvalid},
		"not a key":           {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}), cert, fs.ErrInvalid},
	} {
		if _, err := ReadSigning(c.key, c.cert); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
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
	signed, err := s.sign(slices.Clone(plain))
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
