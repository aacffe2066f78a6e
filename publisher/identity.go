package publisher

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"

	"github.com/libp2p/go-libp2p/core/crypto"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/ed25519pem"
	"github.com/phaseboot/phaseboot/internal/file"
)

const maxIdentity = 4 << 10 // bytes of an identity file

// LoadIdentity reads the private key of a peer ID from a PKCS #8 PEM file, and makes the
// file (mode 0600) when it is missing. The key authenticates the peer on the network; it
// signs nothing that a machine trusts.
func LoadIdentity(path string) (crypto.PrivKey, error) {
	data, err := file.Read(path, 0, maxIdentity)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return makeIdentity(path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("identity %s: %w; run this as the user of the publisher, or name another file with --identity", path, fs.ErrPermission)
	case err != nil && !errors.Is(err, file.ErrTooLarge):
		return nil, fmt.Errorf("identity: %w", err)
	}
	private, err := ed25519pem.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("identity %s: not an Ed25519 key in PKCS #8 PEM; remove the file to get a new peer ID: %w", path, cas.ErrCorrupt)
	}
	return crypto.UnmarshalEd25519PrivateKey(private)
}

// lockIdentity loads an identity and locks its file until release is called: two processes
// with the same peer ID would receive each other's connections. "" is a new key without a file.
func lockIdentity(path string) (key crypto.PrivKey, release func(), err error) {
	if path == "" { // a new key
		key, _, err = crypto.GenerateEd25519Key(rand.Reader)
		return key, func() {}, err
	}
	if key, err = LoadIdentity(path); err != nil {
		return nil, nil, err
	}
	f, err := file.Open(path, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("identity: %w", err)
	}
	if err := file.TryLock(f); errors.Is(err, file.ErrLocked) {
		f.Close()
		return nil, nil, fmt.Errorf("identity %s: another process uses it; give this one its own with --identity FILE", path)
	}
	return key, func() { f.Close() }, nil // without a lock where the file system has none
}

func makeIdentity(path string) (crypto.PrivKey, error) {
	_, private, _ := ed25519.GenerateKey(rand.Reader) // never fails
	text, err := ed25519pem.Marshal(private)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	err = atomicfile.Create(path, 0o600, text)
	if errors.Is(err, fs.ErrExist) { // another process has made it meanwhile
		if err := file.Check(path, 0); err != nil {
			return nil, fmt.Errorf("identity %s: a symbolic link to nothing; remove it, or name another file with --identity: %w", path, err)
		}
		return LoadIdentity(path)
	}
	if err != nil {
		return nil, fmt.Errorf("identity %s: %w; name a file that can be made with --identity", path, err)
	}
	return crypto.UnmarshalEd25519PrivateKey(private)
}
