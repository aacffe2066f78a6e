package signer

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/signer/key"
)

// A document is a metadata file and its path.
type document struct {
	*manifest.Document
	path string
}

// openDocument reads a metadata file of any kind.
func openDocument(path string) (*document, error) {
	return openAs(path, "manifest", "a whole metadata file, such as RELEASE.json or root.json")
}

// openRoot reads a root.json.
func openRoot(path string) (*document, error) {
	d, err := openAs(path, "root", "the root.json that phase-sign init made")
	if err == nil && d.Kind() != manifest.KindRoot {
		return nil, refusal.Invalid("root %s: is %s metadata; name the root.json", path, d.Kind())
	}
	return d, err
}

// openAs reads a metadata file. Errors begin with the word what and end with the file to name.
func openAs(path, what, belongs string) (*document, error) {
	data, err := readMetadata(path)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", what, path, err)
	}
	d, err := manifest.Open(data)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w; name %s", what, path, err, belongs)
	}
	return &document{d, path}, nil
}

// openVersion reads VERSION.ROLE.json of a folder. A file of another role or version wraps
// manifest.ErrUntrusted.
func openVersion(dir, role string, version int64) (*document, error) {
	name := manifest.FileName(role, version)
	d, err := openDocument(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	return d, d.fail(d.CheckName(name))
}

// readMetadata reads the bytes of a metadata file.
func readMetadata(path string) ([]byte, error) {
	f, err := file.OpenInput(path)
	if err != nil {
		return nil, file.Advise(err)
	}
	defer f.Close()
	data, err := file.ReadAll(f, manifest.MaxMetadata)
	switch {
	case errors.Is(err, file.ErrTooLarge):
		return nil, refusal.Invalid("more than %d bytes, so not metadata; is this the right file?", manifest.MaxMetadata)
	case err != nil:
		return nil, file.Advise(err)
	case len(data) == 0:
		return nil, fmt.Errorf("the file is empty (%w); get it again", cas.ErrCorrupt)
	}
	return data, nil
}

// fail names the document in an error; nil stays nil.
func (d *document) fail(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("manifest %s: %w", d.path, err)
}

// folder is the folder of the file.
func (d *document) folder() string { return filepath.Dir(d.path) }

// sign adds a signature by each key, in place of an older one by the same key.
func (d *document) sign(ctx context.Context, keys ...key.Key) error {
	for _, k := range keys {
		next, err := d.Sign(k.Signer())
		if err != nil {
			return fmt.Errorf("key %s: %w", k.Name(), err)
		}
		d.Document = next
	}
	return ctx.Err()
}
