package machine

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/ed25519pem"
	"github.com/phaseboot/phaseboot/internal/file"
)

const (
	keyFile    = "machine.key" // in the cache
	maxKeyFile = 4 << 10       // bytes
)

// errBadKey is the error for a key file without a usable key.
var errBadKey = errors.New("the key there is damaged")

// ephemeral is the summary of machineKey for a key that is not stored.
const ephemeral = "new for this boot"

// machineKey returns the machine's Ed25519 private key as PKCS #8 PEM. path is the file of the
// key, "" for a key of this boot only. If write is set, a missing or damaged file is replaced.
// Where the file cannot be used the key is ephemeral, and err says why: the machine loses its
// identity and still boots.
func machineKey(path string, write bool) (pemKey []byte, summary string, err error) {
	readErr := fs.ErrNotExist
	if path != "" {
		if pemKey, readErr = readKey(path); readErr == nil {
			return pemKey, "kept on the cache partition", nil
		}
	}
	if pemKey, err = newKey(); err != nil {
		return nil, "", err
	}
	missing, damaged := errors.Is(readErr, fs.ErrNotExist), errors.Is(readErr, errBadKey)
	switch {
	case missing && (path == "" || !write):
		return pemKey, ephemeral, nil
	case !missing && !(damaged && write):
		return pemKey, ephemeral, readErr
	}
	summary = "kept on the cache partition"
	if damaged {
		summary = fmt.Sprintf("a new one, kept on the cache partition: %v; other machines see a new peer", readErr)
		err = os.RemoveAll(path) // a symbolic link or a folder itself, not its target
	}
	if err == nil {
		err = atomicfile.Write(path, 0o600, pemKey)
	}
	if err != nil {
		return pemKey, ephemeral, fmt.Errorf("machine key: %w", err)
	}
	return pemKey, summary, nil
}

func newKey() ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return ed25519pem.Marshal(key)
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
	key, err := ed25519pem.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadKey, err)
	}
	return ed25519pem.Marshal(key)
}
