package signer

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"golang.org/x/crypto/ssh"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
)

// maxKeyFile bounds a key or passphrase file, in bytes.
const maxKeyFile = 16 << 10

var errNotPublic = errors.New("not a public key")

// readKeyFile reads a key or passphrase file that a person named.
func readKeyFile(path string) ([]byte, error) {
	data, err := readSmall(path, maxKeyFile)
	switch {
	case err != nil:
		return nil, err
	case len(data) == 0:
		return nil, fmt.Errorf("the file is empty (%w); restore it from its backup", cas.ErrCorrupt)
	case len(data) > maxKeyFile:
		return nil, invalid("more than %d bytes, so not a key; is this the right file?", maxKeyFile)
	}
	return data, nil
}

// readSmall reads at most limit+1 bytes of a file that a person named; errors say what to
// do and do not name the path.
func readSmall(path string, limit int64) ([]byte, error) {
	f, err := file.OpenInput(path)
	if err != nil {
		return nil, advise(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	return data, advise(err)
}

// advise adds what to do about a file that a person named.
func advise(err error) error {
	err = pathless(err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; check the path", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; run as a user who may read it", err)
	case errors.Is(err, syscall.EISDIR):
		return fmt.Errorf("%w; name a file", err)
	case errors.Is(err, syscall.ENOTDIR):
		return invalid("a part of the path is a file; name a folder")
	}
	return err
}

// pathless drops the path that the caller's own words already name.
func pathless(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// loadPEM opens a private key file.
func loadPEM(ctx context.Context, path string, pass PassFunc) (Key, error) {
	data, err := readKeyFile(path)
	if err != nil {
		return Key{}, err
	}
	return parsePEM(ctx, path, data, pass)
}

// parsePEM reads a private key file.
func parsePEM(ctx context.Context, path string, data []byte, pass PassFunc) (Key, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		if _, err := parsePublic(data); err == nil {
			return Key{}, errPublicGiven
		}
		return Key{}, fmt.Errorf("no PEM in it, so not a key file (%w); name the file that 'phase-sign key generate' made", cas.ErrCorrupt)
	}
	var private crypto.PrivateKey
	var err error
	switch cryptoutils.PEMType(block.Type) {
	case cryptoutils.PrivateKeyPEMType:
		private, err = parsePrivate(block.Bytes)
	case cryptoutils.EncryptedSigstorePrivateKeyPEMType:
		private, err = decrypt(ctx, path, block, pass)
	case cryptoutils.PublicKeyPEMType:
		return Key{}, errPublicGiven
	default:
		return Key{}, invalid("a PEM block %.40q; keys are made with 'phase-sign key generate'", block.Type)
	}
	if err != nil {
		return Key{}, err
	}
	return newPEMKey(private)
}

var errPublicGiven = invalid("holds a public key; signing needs the private one")

func newPEMKey(private crypto.PrivateKey) (Key, error) {
	key, ok := private.(ed25519.PrivateKey)
	if !ok {
		if s, ok := private.(crypto.Signer); ok {
			private = s.Public()
		}
		_, err := onlyEd25519(private)
		return Key{}, err
	}
	s, err := signature.LoadED25519Signer(key)
	if err != nil {
		return Key{}, err
	}
	return Key{signer: s, public: key.Public().(ed25519.PublicKey), private: key}, nil
}

// decrypt opens the scrypt and secretbox envelope that cosign writes too. Who types a wrong
// passphrase is asked again.
func decrypt(ctx context.Context, path string, block *pem.Block, pass PassFunc) (crypto.PrivateKey, error) {
	ask := Unlock
	for range tries {
		phrase, err := askPass(ctx, pass, path, ask)
		if errors.Is(err, errSame) {
			break
		}
		if err != nil {
			return nil, err
		}
		der, err := encrypted.Decrypt(block.Bytes, phrase)
		if err == nil {
			return parsePrivate(der)
		}
		if err.Error() != "encrypted: decryption failed" {
			return nil, garbled(err)
		}
		ask = Retry
	}
	return nil, fmt.Errorf("%w; type it again or name the right --passphrase-file", ErrPassphrase)
}

func parsePrivate(der []byte) (crypto.PrivateKey, error) {
	private, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, garbled(err)
	}
	return private, nil
}

// garbled is the error of a key file whose envelope says nothing that can be read.
func garbled(err error) error {
	return fmt.Errorf("garbled (%v: %w); restore it from its backup", err, cas.ErrCorrupt)
}

// parsePublic reads a PKIX PEM or one OpenSSH line; errNotPublic when data is
// neither.
func parsePublic(data []byte) (ed25519.PublicKey, error) {
	if block, _ := pem.Decode(data); block != nil {
		if block.Type != string(cryptoutils.PublicKeyPEMType) {
			return nil, errNotPublic
		}
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("public key: %w: %w", err, cas.ErrCorrupt)
		}
		return onlyEd25519(public)
	}
	line, _, _, _, err := ssh.ParseAuthorizedKey(bytes.TrimSpace(data))
	if err != nil {
		return nil, errNotPublic
	}
	return sshPublic(line)
}

// marshalKey encodes a key pair: private is plain PKCS #8 when phrase is nil.
func marshalKey(key ed25519.PrivateKey, phrase []byte) (private, public []byte, err error) {
	if phrase == nil {
		private, err = cryptoutils.MarshalPrivateKeyToPEM(key)
	} else {
		var der []byte
		der, err = cryptoutils.MarshalPrivateKeyToEncryptedDER(key, cryptoutils.StaticPasswordFunc(phrase))
		private = cryptoutils.PEMEncode(cryptoutils.EncryptedSigstorePrivateKeyPEMType, der)
	}
	if err != nil {
		return nil, nil, err
	}
	public, err = cryptoutils.MarshalPublicKeyToPEM(key.Public())
	return private, public, err
}
