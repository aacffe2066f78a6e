package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"filippo.io/age"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
)

// ageFile has the age identity of the machine, in the cache. Secrets in settings are sealed to it.
const ageFile = "machine.age"

// ageKey returns the age identity of the machine, nil if there is none. A missing or damaged one is made again if write
// is set. There is none for one boot alone: nobody could seal a secret to it.
func ageKey(path string, write bool) (*age.X25519Identity, error) {
	data, err := file.Read(path, file.NoFollow, maxKeyFile)
	if err == nil {
		identity, parseErr := age.ParseX25519Identity(strings.TrimSpace(string(data)))
		if parseErr == nil {
			return identity, nil
		}
		err = errBadKey
	}
	damaged := errors.Is(err, errBadKey) || errors.Is(err, file.ErrKind) || errors.Is(err, file.ErrTooLarge)
	switch {
	case !write && errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case !damaged && !errors.Is(err, fs.ErrNotExist), !write:
		return nil, fmt.Errorf("age key: %w", err)
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	if damaged {
		err = os.RemoveAll(path) // a symbolic link or a folder itself, not its target
	}
	if err == nil {
		err = atomicfile.Write(path, 0o600, []byte(identity.String()+"\n"))
	}
	if err != nil {
		return nil, fmt.Errorf("age key: %w", err)
	}
	return identity, nil
}
