package machine

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
)

const (
	keyFile    = "machine.key" // in the cache
	maxKeyFile = 4 << 10       // bytes
)

// errBadKey says that a key file holds no key of ours.
var errBadKey = errors.New("the key there is damaged")

// machineKey returns the machine's Ed25519 private key as PKCS #8 PEM, and words about
// it. path is where it is kept, "" for a key that lives as long as this boot. A file that
// is missing, or that holds no key, is made anew when write says so. A file that cannot be
// read or written costs the identity, not the boot: the key is then ephemeral and err says
// why.
func machineKey(path string, write bool) (pemKey []byte, words string, err error) {
	var old []byte
	err = fs.ErrNotExist
	if path != "" {
		old, err = readKey(path)
	}
	if err == nil {
		return old, "kept on the cache partition", nil
	}
	fresh, genErr := newKey()
	bad := errors.Is(err, errBadKey)
	switch {
	case genErr != nil:
		return nil, "", genErr
	case !bad && !errors.Is(err, fs.ErrNotExist):
		return fresh, ephemeral, err
	case path == "" || !write:
		return fresh, ephemeral, only(err, bad)
	}
	if bad {
		words = fmt.Sprintf("a new one, kept on the cache partition: %v; other machines see a new peer", err)
		err = os.RemoveAll(path) // the link or the folder itself, nothing behind it
	} else {
		words, err = "kept on the cache partition", nil
	}
	if err == nil {
		err = atomicfile.Write(path, 0o600, fresh)
	}
	if err != nil {
		return fresh, ephemeral, fmt.Errorf("machine key: %w", err)
	}
	return fresh, words, nil
}

const ephemeral = "new for this boot"

// only is err where it counts.
func only(err error, counts bool) error {
	if counts {
		return err
	}
	return nil
}

func newKey() ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// readKey reads a key file and returns its PEM bytes if they hold an Ed25519 key.
func readKey(name string) ([]byte, error) {
	data, err := file.Read(name, file.NoFollow, maxKeyFile)
	if errors.Is(err, file.ErrKind) || errors.Is(err, file.ErrTooLarge) {
		return nil, fmt.Errorf("%w: %w", errBadKey, err)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%w: not PEM", errBadKey)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if _, ok := key.(ed25519.PrivateKey); err != nil || !ok {
		return nil, fmt.Errorf("%w: not an Ed25519 key in PKCS #8", errBadKey)
	}
	return pem.EncodeToMemory(block), nil
}
