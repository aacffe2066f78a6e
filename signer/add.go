package signer

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/manifest"
)

// AddSpec names the file that gets more signatures.
type AddSpec struct {
	File   string
	Repo   string // folder with root.json and N.targets.json; the file's own when empty
	Keys   []Key
	Digest string // what Show printed when the file was reviewed; "" does not compare
	Now    time.Time
}

// Add puts one signature for each key under a metadata file, in place of an older one
// by the same key. A key that may not sign the file, a signature in it that no longer
// fits its content, and a digest other than the reviewed one wrap
// manifest.ErrSignature, a release whose date of signing is still to come
// manifest.ErrUntrusted; the file is then left as it was. A root has two names
// in a repository, N.root.json and root.json: both are kept alike.
func Add(ctx context.Context, s AddSpec) (Summary, error) {
	d, err := openDocument(s.File)
	if err != nil {
		return Summary{}, err
	}
	if s.Digest != "" && s.Digest != d.digest() {
		return Summary{}, because(manifest.ErrSignature, "manifest %s: its content is %s, not %.64q that was reviewed; review it again",
			s.File, d.digest(), s.Digest)
	}
	if err := fresh(d, s.Now); err != nil {
		return Summary{}, err
	}
	if err := d.begun(s.Now); err != nil {
		return Summary{}, err
	}
	t, err := d.trust(s.Repo, s.Now)
	if err != nil {
		return Summary{}, err
	}
	if err := t.mayAllSign(d, s.Keys); err != nil {
		return Summary{}, err
	}
	before := d.digest()
	for _, k := range s.Keys {
		if _, err := d.sign(k.signer); err != nil {
			return Summary{}, fmt.Errorf("key %s: %w", k.name, err)
		}
	}
	if err := ctx.Err(); err != nil {
		return Summary{}, err
	}
	if err := d.store(before); err != nil {
		return Summary{}, err
	}
	return summarize(d, t), nil
}

// trust opens what decides who may sign d: the repository at dir, or the files beside
// d. A root speaks for itself, and may also be signed by the keys of the one before.
func (d *document) trust(dir string, now time.Time) (*trust, error) {
	unnamed := dir == ""
	if unnamed {
		dir = d.folder()
	}
	if d.kind == manifest.KindRoot {
		return &trust{dir: dir, root: d}, nil
	}
	t, err := openTrust(filepath.Join(dir, RootName), dir, false, now)
	if unnamed && errors.Is(err, fs.ErrNotExist) {
		return nil, because(fs.ErrNotExist, "manifest %s: no root.json beside it says who may sign; name the repository with --repo", d.path)
	}
	return t, err
}

// mayAllSign refuses keys that are not listed for d, and a document that was changed
// after somebody signed it.
func (t *trust) mayAllSign(d *document, keys []Key) error {
	listed, _, err := t.authority(d)
	if err != nil {
		return err
	}
	if err := t.holds(d); err != nil {
		return err
	}
	if _, bad, _ := d.judge(listed); len(bad) > 0 {
		return altered(d, bad)
	}
	if d.kind == manifest.KindRoot {
		t.addPrevious(d, listed)
	}
	for _, k := range keys {
		id, err := k.ID()
		if err != nil {
			return err
		}
		if _, ok := listed[id]; !ok {
			return because(manifest.ErrSignature, "key %s (%.8s…): may not sign %s; that is for %s", k.name, id, d.role, shortIDs(listed))
		}
	}
	return nil
}

// holds refuses a document of another repository, before somebody signs it.
func (t *trust) holds(d *document) error {
	root := t.root
	if d.kind == manifest.KindRoot {
		root = t.previous(d)
	}
	if root == nil { // the first one, or the one before is not at hand
		return nil
	}
	return sameRepository(root, d)
}

// addPrevious lists the keys of the root before d, which sign d too.
func (t *trust) addPrevious(d *document, listed map[string]ed25519.PublicKey) {
	if old := t.previous(d); old != nil {
		addKeysOf(old, listed)
	}
}

// previous is the root before d, nil where it is not in the folder.
func (t *trust) previous(d *document) *document {
	old, err := openVersion(t.dir, "root", d.version-1)
	if err != nil {
		return nil
	}
	return old
}

// addKeysOf lists a root's own keys beside others.
func addKeysOf(root *document, keys map[string]ed25519.PublicKey) {
	own, _ := listed(root.root, root.role)
	maps.Copy(keys, own)
}

func altered(d *document, bad []string) error {
	for i, id := range bad {
		bad[i] = fmt.Sprintf("%.8s…", id)
	}
	return because(manifest.ErrSignature, "manifest %s: changed after %s signed it; get the original and review it again", d.path, strings.Join(bad, ", "))
}

// store writes the document back, and a root to its other name beside it too. What
// somebody else has put under the same bytes meanwhile stays.
func (d *document) store(digest string) error {
	dir, err := lockFolder(d.folder())
	if err != nil {
		return fmt.Errorf("manifest %s: %w", d.path, err)
	}
	defer dir.Close()
	var paths []string
	for _, path := range d.names() {
		now, err := openDocument(path)
		if path != d.path && (errors.Is(err, fs.ErrNotExist) || err == nil && now.digest() != digest) {
			continue
		}
		if err != nil {
			return err
		}
		if now.digest() != digest {
			return because(manifest.ErrSignature, "manifest %s: was replaced while it was being signed; review it and run it again", path)
		}
		d.merge(now.signatures)
		paths = append(paths, path)
	}
	data, err := d.encode()
	if err != nil {
		return fmt.Errorf("manifest %s: %w", d.path, err)
	}
	again, err := parseDocument(data)
	if err != nil || again.digest() != digest {
		return errors.Join(fmt.Errorf("manifest %s: cannot be written back as it was read: %w", d.path, manifest.ErrMalformed), err)
	}
	for _, path := range paths {
		if err := atomicfile.Write(path, 0o644, data); err != nil {
			return fmt.Errorf("manifest %s: %w", path, err)
		}
	}
	return nil
}

// names are the document's own path and, for a root, the two that a repository has
// for it.
func (d *document) names() []string {
	names := []string{d.path}
	if d.kind != manifest.KindRoot {
		return names
	}
	for _, name := range []string{manifest.FileName("root", d.version), RootName} {
		if path := filepath.Join(d.folder(), name); path != filepath.Clean(d.path) {
			names = append(names, path)
		}
	}
	return names
}

// lockFolder waits until no other phase-sign writes signatures there. Closing the
// folder gives it free.
func lockFolder(path string) (*os.File, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		dir.Close()
		return nil, fmt.Errorf("lock: %w", err)
	}
	return dir, nil
}
