package key

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"golang.org/x/crypto/ssh"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/ed25519pem"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

// maxKeyFile is the greatest size of a key or passphrase file, in bytes.
const maxKeyFile = 16 << 10

// encryptedType is the PEM block of an encrypted key, as cosign writes it.
const encryptedType = string(cryptoutils.EncryptedSigstorePrivateKeyPEMType)

var (
	errNotPublic   = errors.New("not a public key")
	errPublicGiven = refusal.Invalid("holds a public key; signing needs the private one")
)

// readKeyFile reads a key or passphrase file.
func readKeyFile(path string) ([]byte, error) {
	f, err := file.OpenInput(path)
	if err != nil {
		return nil, file.Advise(err)
	}
	defer f.Close()
	data, err := file.ReadAll(f, maxKeyFile)
	switch {
	case errors.Is(err, file.ErrTooLarge):
		return nil, refusal.Invalid("more than %d bytes, so not a key; is this the right file?", maxKeyFile)
	case err != nil:
		return nil, file.Advise(err)
	case len(data) == 0:
		return nil, fmt.Errorf("the file is empty (%w); restore it from its backup", cas.ErrCorrupt)
	}
	return data, nil
}

// loadPEM opens a private key file.
func loadPEM(ctx context.Context, path string, pass PassFunc) (Key, error) {
	data, err := readKeyFile(path)
	if err != nil {
		return Key{}, err
	}
	return parsePEM(ctx, path, data, pass)
}

// parsePEM reads the bytes of a private key file.
func parsePEM(ctx context.Context, path string, data []byte, pass PassFunc) (Key, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		if _, err := parsePublic(data); err == nil {
			return Key{}, errPublicGiven
		}
		return Key{}, fmt.Errorf("no PEM in it, so not a key file (%w); name the file that 'phase-sign key generate' made", cas.ErrCorrupt)
	}
	var private ed25519.PrivateKey
	var err error
	switch block.Type {
	case ed25519pem.PrivateType:
		private, err = parsePrivate(block.Bytes)
	case encryptedType:
		private, err = decrypt(ctx, path, block, pass)
	case ed25519pem.PublicType:
		return Key{}, errPublicGiven
	default:
		return Key{}, refusal.Invalid("PEM block %.40q: is not a private key; keys are made with 'phase-sign key generate'", block.Type)
	}
	if err != nil {
		return Key{}, err
	}
	return newPEMKey(private)
}

func newPEMKey(private ed25519.PrivateKey) (Key, error) {
	s, err := signature.LoadED25519Signer(private)
	if err != nil {
		return Key{}, err
	}
	return Key{signer: s, public: private.Public().(ed25519.PublicKey), private: private}, nil
}

// decrypt opens an encrypted key: scrypt and NaCl's secretbox, as cosign writes it. After a
// wrong passphrase it asks again, maxTries times in all.
func decrypt(ctx context.Context, path string, block *pem.Block, pass PassFunc) (ed25519.PrivateKey, error) {
	ask := Unlock
	for range maxTries {
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
			return nil, damaged(err)
		}
		ask = Retry
	}
	return nil, fmt.Errorf("%w; type it again or name the right --passphrase-file", ErrPassphrase)
}

// parsePrivate reads a private key in PKCS #8.
func parsePrivate(der []byte) (ed25519.PrivateKey, error) {
	key, err := ed25519pem.ParseDER(der)
	if other := new(ed25519pem.KindError); err != nil && !errors.As(err, &other) {
		return nil, damaged(err)
	}
	return key, onlyEd25519(err)
}

// damaged words the refusal of a key file that cannot be read.
func damaged(err error) error {
	return fmt.Errorf("damaged (%v: %w); restore it from its backup", err, cas.ErrCorrupt)
}

// parsePublic reads a PKIX PEM or one OpenSSH line; other data are errNotPublic.
func parsePublic(data []byte) (ed25519.PublicKey, error) {
	if block, _ := pem.Decode(data); block != nil {
		if block.Type != ed25519pem.PublicType {
			return nil, errNotPublic
		}
		public, err := ed25519pem.ParsePublic(data)
		if other := new(ed25519pem.KindError); err != nil && !errors.As(err, &other) {
			return nil, fmt.Errorf("public key: %w: %w", err, cas.ErrCorrupt)
		}
		return public, onlyEd25519(err)
	}
	line, _, _, _, err := ssh.ParseAuthorizedKey(bytes.TrimSpace(data))
	if err != nil {
		return nil, errNotPublic
	}
	return sshPublic(line)
}

// marshalKey encodes both halves of a key. The private one is plain PKCS #8 when phrase is nil.
func marshalKey(key ed25519.PrivateKey, phrase []byte) (private, public []byte, err error) {
	if phrase == nil {
		private, err = ed25519pem.Marshal(key)
	} else {
		var der []byte
		der, err = cryptoutils.MarshalPrivateKeyToEncryptedDER(key, cryptoutils.StaticPasswordFunc(phrase))
		private = pem.EncodeToMemory(&pem.Block{Type: encryptedType, Bytes: der})
	}
	if err != nil {
		return nil, nil, err
	}
	public, err = ed25519pem.MarshalPublic(key.Public().(ed25519.PublicKey))
	return private, public, err
}
