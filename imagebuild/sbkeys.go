package imagebuild

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
	"unicode/utf16"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/authenticode"
	"github.com/phaseboot/phaseboot/internal/file"
)

// secureBootKeys are the keys of Secure Boot in the order of authority: the platform key signs
// changes of KEK, KEK those of db, and db the programs that firmware starts. The last one is enrolled
// first, because firmware checks signatures as soon as it has a platform key.
var secureBootKeys = []string{"PK", "KEK", "db"}

// Identifiers of UEFI 2.10: EFI_GLOBAL_VARIABLE, EFI_IMAGE_SECURITY_DATABASE_GUID, EFI_CERT_X509_GUID,
// EFI_CERT_TYPE_PKCS7_GUID, in the order of bytes of a file.
var (
	guidGlobal   = [16]byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	guidDatabase = [16]byte{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}
	guidX509     = [16]byte{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
	guidPKCS7    = [16]byte{0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7}
)

const (
	keyYears    = 30 // firmware does not look at the dates
	authRevised = 0x0200
	authType    = 0x0ef1 // WIN_CERT_TYPE_EFI_GUID
	authVars    = 0x27   // non-volatile, boot, runtime, with a time and a signature
)

// KeysInfo describes keys that were made.
type KeysInfo struct {
	Out    string `json:"out"`
	SHA256 string `json:"db_sha256"` // of the certificate of db, in DER
	Enroll string `json:"enroll"`    // the medium that enrolls them
}

// WriteKeys makes the three keys of Secure Boot in the new folder out: NAME.key (PEM, mode 0600, no
// passphrase), NAME.pem and NAME.der (certificate), NAME.auth (the variable, signed for enrollment).
// enroll.img is a medium with systemd-boot that enrolls them on a machine in setup mode.
func (b *Builder) WriteKeys(ctx context.Context, p Platform, out string) (*KeysInfo, error) {
	out = filepath.Clean(out) // a folder's name may end with a slash
	if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
		return nil, optionsf("out %s: exists; name a new folder, so that no key is replaced", out)
	}
	if err := requireTools("mkfs.vfat", "mmd"); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(out), ".phase-keys-")
	if err != nil {
		return nil, file.FullDisk(err)
	}
	defer os.RemoveAll(tmp)
	tree := &espTree{date: time.Now(), files: map[string][]byte{menuPath: []byte(dataFile("esp/enroll.conf"))}}
	if err := b.addLoader(ctx, p, tree); err != nil {
		return nil, err
	}
	info := &KeysInfo{Out: out, Enroll: filepath.Join(out, "enroll.img")}
	var above *authenticode.Signer // PK signs itself
	for _, name := range secureBootKeys {
		s, err := makeKey(name)
		if err != nil {
			return nil, err
		}
		if above == nil {
			above = s
		}
		auth, err := enrollment(name, s.Certificate, above, tree.date)
		if err != nil {
			return nil, err
		}
		if err := writeKey(filepath.Join(tmp, name), s, auth); err != nil {
			return nil, err
		}
		tree.files["loader/keys/auto/"+name+".auth"] = auth
		sum := sha256.Sum256(s.Certificate.Raw)
		above, info.SHA256 = s, fmt.Sprintf("%x", sum)
	}
	image := filepath.Join(tmp, "enroll.img")
	if err := errors.Join(os.WriteFile(image, nil, 0o644), b.makeESP(ctx, tree, image), syncAll(image), atomicfile.SyncDir(tmp)); err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, out); err != nil {
		return nil, err
	}
	return info, atomicfile.SyncDir(filepath.Dir(out))
}

// makeKey makes a key and its certificate, signed by itself.
func makeKey(name string) (*authenticode.Signer, error) {
	key, err := rsa.GenerateKey(rand.Reader, authenticode.KeyBits)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	begin := time.Now().Add(-24 * time.Hour)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Phase Boot " + name}, NotBefore: begin, NotAfter: begin.AddDate(keyYears, 0, 0),
		SignatureAlgorithm: x509.SHA256WithRSA, BasicConstraintsValid: true,
	}
	data, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(data)
	return &authenticode.Signer{Key: key, Certificate: cert}, err
}

func writeKey(path string, s *authenticode.Signer, auth []byte) error {
	key, err := x509.MarshalPKCS8PrivateKey(s.Key)
	return errors.Join(err,
		atomicfile.Write(path+".key", 0o600, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
		atomicfile.Write(path+".pem", 0o644, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate.Raw})),
		atomicfile.Write(path+".der", 0o644, s.Certificate.Raw),
		atomicfile.Write(path+".auth", 0o644, auth))
}

// enrollment returns an authenticated variable with one certificate (EFI_VARIABLE_AUTHENTICATION_2
// and EFI_SIGNATURE_LIST, UEFI 2.10, 8.2.2 and 32.4.1), signed with the key above.
func enrollment(name string, cert *x509.Certificate, above *authenticode.Signer, date time.Time) ([]byte, error) {
	vendor := guidGlobal
	if name == "db" {
		vendor = guidDatabase
	}
	put16, put32 := binary.LittleEndian.AppendUint16, binary.LittleEndian.AppendUint32
	const listHeader, owner = 28, 16
	size := uint32(owner + len(cert.Raw))
	list := put32(append([]byte{}, guidX509[:]...), listHeader+size)
	list = put32(put32(list, 0), size)
	id := sha256.Sum256(cert.Raw) // the owner's identifier is only shown
	list = append(append(list, id[:owner]...), cert.Raw...)

	date = date.UTC()
	stamp := put16(nil, uint16(date.Year()))
	stamp = append(stamp, byte(date.Month()), byte(date.Day()), byte(date.Hour()), byte(date.Minute()), byte(date.Second()), 0, 0, 0, 0, 0, 0, 0, 0, 0)
	var message []byte
	for _, u := range utf16.Encode([]rune(name)) {
		message = put16(message, u)
	}
	message = append(put32(append(message, vendor[:]...), authVars), stamp...)
	signed, err := above.SignDetached(append(message, list...))
	if err != nil {
		return nil, err
	}
	const header = 8 + 16
	out := put32(stamp, uint32(header+len(signed)))
	out = put16(put16(out, authRevised), authType)
	return append(append(append(out, guidPKCS7[:]...), signed...), list...), nil
}
