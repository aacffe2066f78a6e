package machine

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
)

const maxKeyFile = 4 << 10

// machineKey returns the machine's Ed25519 private key as PKCS #8 PEM and
// whether it will be the same at the next boot. file is where it is kept, "" for
// a key that lives as long as this boot; a missing file is created when write
// says so. An unreadable or foreign file costs the identity, not the boot: the
// key is then ephemeral and err says why.
func machineKey(file string, write bool) (pemKey []byte, kept bool, err error) {
	if file != "" {
		old, err := readKey(file)
		if err == nil {
			return old, true, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			fresh, genErr := newKey()
			return fresh, false, errors.Join(err, genErr)
		}
	}
	fresh, err := newKey()
	if err != nil || file == "" || !write {
		return fresh, false, err
	}
	if err := atomicfile.Write(file, 0o600, fresh); err != nil {
		return fresh, false, fmt.Errorf("machine key: %w", err)
	}
	return fresh, true, nil
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
func readKey(file string) ([]byte, error) {
	// Whoever wrote the stick may have put a pipe there: opening it must not hang.
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("machine key %s: not a regular file; remove it to get a new key", file)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("machine key %s: not PEM; remove the file to get a new key", file)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if _, ok := key.(ed25519.PrivateKey); err != nil || !ok {
		return nil, fmt.Errorf("machine key %s: not an Ed25519 PKCS #8 key; remove the file to get a new key", file)
	}
	return pem.EncodeToMemory(block), nil
}
