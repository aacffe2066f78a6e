package signer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/signer/key"
)

// AddSpec names the file to sign.
type AddSpec struct {
	File   string
	Repo   string // folder with root.json and N.targets.json; the folder of the file when empty
	Keys   []key.Key
	Digest string // the digest that Show printed at the review; "" compares nothing
	Now    time.Time
}

// Add puts one signature for each key under a metadata file, in place of an older one by the same
// key. A key that may not sign the file, a signature that does not match the content, and a digest
// other than the reviewed one wrap manifest.ErrSignature; a release whose date of signing is in the
// future wraps manifest.ErrUntrusted. The file is then left as it was. A root has two names in a
// repository, N.root.json and root.json: both are written.
func Add(ctx context.Context, s AddSpec) (Summary, error) {
	d, err := openDocument(s.File)
	if err != nil {
		return Summary{}, err
	}
	if s.Digest != "" && s.Digest != d.Digest() {
		return Summary{}, refusal.New(manifest.ErrSignature, "manifest %s: its content is %s, not %.64q that was reviewed; review it again",
			s.File, d.Digest(), s.Digest)
	}
	if err := d.CheckExpiry(s.Now); err != nil {
		return Summary{}, d.fail(err)
	}
	if r := d.Release(); r != nil {
		if err := r.CheckSignedAt(s.Now); err != nil {
			return Summary{}, d.fail(err)
		}
	}
	if c := d.Config(); c != nil {
		if err := c.CheckSignedAt(s.Now); err != nil {
			return Summary{}, d.fail(err)
		}
	}
	r, err := repositoryOf(d, s.Repo)
	if err != nil {
		return Summary{}, err
	}
	if err := r.maySign(d, s.Keys); err != nil {
		return Summary{}, err
	}
	if err := d.sign(ctx, s.Keys...); err != nil {
		return Summary{}, err
	}
	if err := d.store(ctx); err != nil {
		return Summary{}, err
	}
	return summarize(d, r), nil
}

// maySign refuses keys that may not sign d, and a document of another repository or one that was
// changed after a listed key signed it.
func (r *repository) maySign(d *document, keys []key.Key) error {
	listed, err := r.keysOf(d.Kind(), d.Role())
	if err != nil {
		return err
	}
	if err := r.checkRepository(d); err != nil {
		return err
	}
	if bad := r.signatures(d).Bad; len(bad) > 0 {
		return altered(d, bad)
	}
	if d.Kind() == manifest.KindRoot { // the keys of the root before sign it too
		listed = append(slices.Clone(listed), keysIn(r.previous(d), d.Role())...)
	}
	return checkKeys(d.Role(), listed, keys)
}

// keysIn are the IDs of the keys that a root lists for one of its roles; nil for a nil root.
func keysIn(root *document, role string) []string {
	if root == nil {
		return nil
	}
	ids, _ := (&repository{root: root}).keysOf(manifest.KindRoot, role)
	return ids
}

// altered refuses a document with bad signatures.
func altered(d *document, bad []string) error {
	return refusal.New(manifest.ErrSignature, "manifest %s: changed after %s signed it; get the original and review it again", d.path, short(bad))
}

// store writes the document back, and a root to its other name too. Signatures that another
// program has added to the same content in the meantime stay.
func (d *document) store(ctx context.Context) error {
	dir, err := lockFolder(ctx, d.folder())
	if err != nil {
		return d.fail(err)
	}
	defer dir.Close()
	var paths []string
	for _, path := range d.paths() {
		now, err := openDocument(path)
		if path != d.path && (errors.Is(err, fs.ErrNotExist) || err == nil && now.Digest() != d.Digest()) {
			continue
		}
		if err != nil {
			return err
		}
		if now.Digest() != d.Digest() {
			return refusal.New(manifest.ErrSignature, "manifest %s: was replaced while it was being signed; review it and run it again", path)
		}
		if d.Document, err = d.Merge(now.Document); err != nil {
			return now.fail(err)
		}
		paths = append(paths, path)
	}
	for _, path := range paths {
		if err := atomicfile.Write(path, 0o644, d.Data()); err != nil {
			return fmt.Errorf("manifest %s: %w", path, err)
		}
	}
	return nil
}

// paths are the document's own path and, for a root, its other names in a repository.
func (d *document) paths() []string {
	paths := []string{d.path}
	if d.Kind() != manifest.KindRoot {
		return paths
	}
	for _, name := range []string{manifest.FileName("root", d.Version()), RootName} {
		if path := filepath.Join(d.folder(), name); path != filepath.Clean(d.path) {
			paths = append(paths, path)
		}
	}
	return paths
}

// lockFolder waits until no other phase-sign writes signatures in a folder. Closing the folder
// unlocks it.
func lockFolder(ctx context.Context, path string) (*os.File, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := file.Lock(ctx, dir); err != nil {
		dir.Close()
		return nil, fmt.Errorf("lock: %w", err)
	}
	return dir, nil
}
