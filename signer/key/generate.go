package key

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
)

// Generate makes an Ed25519 key: path (mode 0600, encrypted with the passphrase from pass, plain
// when pass is nil) and path.pub. If one of them exists, the error wraps fs.ErrExist. After an
// error neither file is there.
func Generate(ctx context.Context, path string, pass PassFunc) (Key, error) {
	if _, err := os.Stat(filepath.Dir(path)); errors.Is(err, fs.ErrNotExist) {
		return Key{}, fmt.Errorf("key %s: folder %s: %w; make it first", path, filepath.Dir(path), fs.ErrNotExist)
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return Key{}, fmt.Errorf("key %s: %w; name a file", path, syscall.EISDIR)
	}
	for _, name := range []string{path, path + ".pub"} {
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			return Key{}, existing(name, cmp.Or(err, fs.ErrExist))
		}
	}
	var phrase []byte
	if pass != nil {
		var err error
		if phrase, err = askPass(ctx, pass, path, Create); err != nil {
			return Key{}, fmt.Errorf("key %s: %w", path, err)
		}
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("key %s: %w", path, err)
	}
	if err := writePair(path, private, phrase); err != nil {
		return Key{}, err
	}
	k, err := newPEMKey(private)
	k.name = path
	return k, err
}

// writePair writes both halves, the public one last: a .pub file means that its key is there.
func writePair(path string, key ed25519.PrivateKey, phrase []byte) error {
	private, public, err := marshalKey(key, phrase)
	if err != nil {
		return fmt.Errorf("key %s: %w", path, err)
	}
	if err := atomicfile.Create(path, 0o600, private); err != nil {
		return existing(path, err)
	}
	if err := atomicfile.Create(path+".pub", 0o644, public); err != nil {
		return errors.Join(existing(path+".pub", err), os.Remove(path))
	}
	return nil
}

// existing names the file of an error, and the remedy where the file exists already.
func existing(path string, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("key %s: %w and is never replaced; choose another name", path, fs.ErrExist)
	}
	return fmt.Errorf("key %s: %w", path, err)
}
