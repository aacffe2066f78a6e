package publisher

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/manifest"
)

// check refuses, before anything is written, keys of other names and a mirror that this
// head does not belong into.
func (e *export) check() error {
	for _, key := range e.IPNS {
		if _, err := newRecords(key, e.head.root.Discovery().IPNS); err != nil {
			return err
		}
	}
	for _, step := range []func() error{e.mirror.fits, e.mirror.foreign, e.sameRepository, e.notNewer} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// foreign refuses a folder with other things, in which no export has written before, and any
// that holds a private key: a web server would serve what lies there.
func (m *mirror) foreign() error {
	entries, err := os.ReadDir(m.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mirror: %w", err)
	}
	_, statErr := os.Lstat(m.at(dirOurs))
	for _, e := range entries {
		switch {
		case isPrivateKey(m.at(e.Name())):
			return fmt.Errorf("mirror %s: holds the private key %q (%w): a web server would serve it; move it away", m.dir, e.Name(), fs.ErrInvalid)
		case statErr != nil && e.Name() != lostFound:
			return fmt.Errorf("mirror %s: not empty, it holds %q, and no export wrote into it (%w): a web server would serve what lies there; name an empty folder", m.dir, e.Name(), fs.ErrInvalid)
		}
	}
	return nil
}

// isPrivateKey reports whether a file begins as a PEM private key.
func isPrivateKey(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 64)
	n, _ := io.ReadFull(f, head) // a short file is shorter than any key
	line, _, _ := bytes.Cut(head[:n], []byte("\n"))
	return bytes.HasPrefix(line, []byte("-----BEGIN ")) && bytes.Contains(line, []byte("PRIVATE KEY"))
}

// sameRepository refuses a folder that holds another repository. The first root of one
// never changes.
func (e *export) sameRepository() error {
	first := manifest.FileName(roleRoot, 1)
	data, err := e.mirror.read(dirMetadata + first)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !bytes.Equal(data, e.head.files[first]) {
		return fmt.Errorf("mirror %s: its %s is of another repository (%w); name another folder", e.Out, first, fs.ErrInvalid)
	}
	return err
}

// notNewer refuses to take a mirror back to an older head, as an old copy of the
// repository would. A timestamp of a key that the newest root does not name is no measure:
// what recovers from a stolen key may begin again below it.
func (e *export) notNewer() error {
	next := manifest.FileName(roleRoot, e.head.root.Version()+1)
	if _, err := os.Stat(e.mirror.at(dirMetadata + next)); err == nil {
		return e.older(fmt.Sprintf("%s, the repository's newest root is %d", next, e.head.root.Version()))
	}
	name := manifest.FileName(roleTimestamp, 0)
	data, err := e.mirror.read(dirMetadata + name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	there, err := manifest.Parse[metadata.TimestampType](manifest.KindTimestamp, data)
	if err != nil || e.head.root.Owns(manifest.KindTimestamp, data) != nil || there.Signed.Version <= e.head.Timestamp {
		return nil
	}
	return e.older(fmt.Sprintf("timestamp %d, the repository %d", there.Signed.Version, e.head.Timestamp))
}

func (e *export) older(has string) error {
	return fmt.Errorf("mirror %s: %w: it has %s; export the newer repository, or, to go back on purpose, remove the folder %s first", e.Out, manifest.ErrRollback, has, e.mirror.at(dirMetadata))
}
