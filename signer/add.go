package signer

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

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
// manifest.ErrSignature; the file is then left as it was. A root that is also the
// repository's root.json is updated there too.
func Add(ctx context.Context, s AddSpec) (Summary, error) {
	d, err := openDocument(s.File)
	if err != nil {
		return Summary{}, err
	}
	if s.Digest != "" && s.Digest != d.digest() {
		return Summary{}, fmt.Errorf("manifest %s: its content is %s, not %.64q that was reviewed; review it again: %w",
			s.File, d.digest(), s.Digest, manifest.ErrSignature)
	}
	if err := fresh(d, s.Now); err != nil {
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
	return summarize(d, t), d.store(before)
}

// trust opens what decides who may sign d: the repository at dir, or the files beside
// d. A root speaks for itself, and may also be signed by the keys of the one before.
func (d *document) trust(dir string, now time.Time) (*trust, error) {
	if dir == "" {
		dir = d.folder()
	}
	if d.kind == manifest.KindRoot {
		return &trust{dir: dir, root: d}, nil
	}
	return openTrust(filepath.Join(dir, RootName), dir, false, now)
}

// mayAllSign refuses keys that are not listed for d, and a document that was changed
// after somebody signed it.
func (t *trust) mayAllSign(d *document, keys []Key) error {
	listed, _, err := t.authority(d)
	if err != nil {
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
			return fmt.Errorf("key %s (%.8s…): may not sign %s; that is for %s: %w", k.name, id, d.role, shortIDs(listed), manifest.ErrSignature)
		}
	}
	return nil
}

// addPrevious lists the keys of the root before d, which sign d too.
func (t *trust) addPrevious(d *document, listed map[string]ed25519.PublicKey) {
	old, err := openDocument(filepath.Join(t.dir, manifest.FileName("root", d.version-1)))
	if err != nil || old.kind != manifest.KindRoot {
		return
	}
	for id, key := range publicKeys(old.root.Signed.Keys, old.root.Signed.Roles["root"].KeyIDs) {
		listed[id] = key
	}
}

func altered(d *document, bad []string) error {
	for i, id := range bad {
		bad[i] = fmt.Sprintf("%.8s…", id)
	}
	return fmt.Errorf("manifest %s: changed after %s signed it; get the original and review it again: %w", d.path, strings.Join(bad, ", "), manifest.ErrSignature)
}

// store writes the document back, and to root.json beside it where that is the same
// root with fewer signatures.
func (d *document) store(digest string) error {
	data, err := d.encode()
	if err != nil {
		return fmt.Errorf("manifest %s: %w", d.path, err)
	}
	again, err := parseDocument(data)
	if err != nil || again.digest() != digest {
		return errors.Join(fmt.Errorf("manifest %s: cannot be written back as it was read: %w", d.path, manifest.ErrMalformed), err)
	}
	if err := atomicfile.Write(d.path, 0o644, data); err != nil {
		return fmt.Errorf("manifest %s: %w", d.path, err)
	}
	if d.kind != manifest.KindRoot {
		return nil
	}
	copied := filepath.Join(d.folder(), RootName)
	other, err := openDocument(copied)
	if errors.Is(err, fs.ErrNotExist) || err == nil && other.digest() != digest {
		return nil
	}
	if err != nil {
		return err
	}
	if err := atomicfile.Write(copied, 0o644, data); err != nil {
		return fmt.Errorf("manifest %s: %w", copied, err)
	}
	return nil
}
