package mirror

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	openfile "github.com/phaseboot/phaseboot/internal/file" // file is a type here
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/store"
)

// check refuses, before anything is written, keys of names that root.json does not list, and
// a folder that is not a mirror of this repository.
func (e *export) check() error {
	for _, key := range e.IPNS {
		if _, err := e.content.repo.NewRecord(key); err != nil {
			return err
		}
	}
	for _, step := range []func() error{e.mirror.checkDirs, e.mirror.checkContent, e.sameRepository, e.notNewer} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// checkContent refuses a folder with files in which no export has written before, and any
// folder with a private key: a web server would serve them.
func (m *mirror) checkContent() error {
	entries, err := os.ReadDir(m.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mirror: %w", err)
	}
	_, statErr := os.Lstat(m.at(dirPrivate))
	for _, e := range entries {
		switch {
		case isPrivateKey(m.at(e.Name())):
			return fmt.Errorf("mirror %s: contains the private key %q (%w): a web server would serve it; move it away", m.dir, e.Name(), fs.ErrInvalid)
		case statErr != nil && e.Name() != store.LostFound:
			return fmt.Errorf("mirror %s: not empty, it contains %q, and no export wrote into it (%w): a web server would serve its content; name an empty folder", m.dir, e.Name(), fs.ErrInvalid)
		}
	}
	return nil
}

// isPrivateKey reports whether a file begins like a PEM private key.
func isPrivateKey(path string) bool {
	f, err := openfile.Open(path, openfile.NoFollow)
	if err != nil {
		return false
	}
	defer f.Close()
	start := make([]byte, 64)
	n, _ := io.ReadFull(f, start) // a shorter file is no key
	line, _, _ := bytes.Cut(start[:n], []byte("\n"))
	return bytes.HasPrefix(line, []byte("-----BEGIN ")) && bytes.Contains(line, []byte("PRIVATE KEY"))
}

// sameRepository refuses a mirror of another repository. The first root of a repository
// never changes.
func (e *export) sameRepository() error {
	first := manifest.FileName(metadata.ROOT, 1)
	data, err := e.mirror.read(dirMetadata + first)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !bytes.Equal(data, e.content.Files[first]) {
		return fmt.Errorf("mirror %s: its %s is of another repository (%w); name another folder", e.Out, first, fs.ErrInvalid)
	}
	return err
}

// notNewer refuses to replace a mirror by an older state of the repository, such as an old
// copy. It ignores a timestamp whose key the newest root does not list: after a stolen key
// was replaced, versions may start again below it.
func (e *export) notNewer() error {
	next := manifest.FileName(metadata.ROOT, e.content.repo.Root.Version()+1)
	if _, err := os.Stat(e.mirror.at(dirMetadata + next)); err == nil {
		return e.older(fmt.Sprintf("%s, the repository's newest root is %d", next, e.content.repo.Root.Version()))
	}
	name := manifest.FileName(metadata.TIMESTAMP, 0)
	data, err := e.mirror.read(dirMetadata + name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	present, err := manifest.Open(data)
	if err != nil || e.content.repo.Root.CheckSigned(manifest.KindTimestamp, data) != nil || present.Version() <= e.content.Timestamp {
		return nil
	}
	return e.older(fmt.Sprintf("timestamp %d, the repository %d", present.Version(), e.content.Timestamp))
}

func (e *export) older(has string) error {
	return fmt.Errorf("mirror %s: %w: it has %s; export the newer repository, or, to go back on purpose, remove the folder %s first", e.Out, manifest.ErrRollback, has, e.mirror.at(dirMetadata))
}
