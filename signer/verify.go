package signer

import (
	"bytes"
	"fmt"
	"path/filepath"
	"time"

	"github.com/phaseboot/phaseboot/manifest"
)

// VerifySpec names what is trusted and what is to be judged by it.
type VerifySpec struct {
	Root  string // the trusted root.json
	Repo  string // folder with newer roots and N.targets.json; the root's own when empty
	Files []string
	Now   time.Time
}

// Verify judges metadata files one by one: a release manifest by the newest targets.json
// of the folder, everything else by the roots. Signatures up to the threshold, dates,
// paths and the grammar are checked, freshness is not: that is what a snapshot and a
// timestamp are for, and manifest.Verify. The first refusal ends it.
func Verify(s VerifySpec) ([]Summary, error) {
	if s.Repo == "" {
		s.Repo = filepath.Dir(s.Root)
	}
	t, err := openTrust(s.Root, s.Repo, true, s.Now)
	if err != nil {
		return nil, err
	}
	list := make([]Summary, 0, len(s.Files))
	for _, path := range s.Files {
		d, err := openDocument(path)
		if err != nil {
			return nil, err
		}
		if d.kind == manifest.KindRoot {
			err = s.verifyRoot(d)
		} else {
			err = t.check(d, s.Now)
		}
		if err != nil {
			return nil, err
		}
		by := t
		if d.kind == manifest.KindRoot {
			by = &trust{dir: s.Repo, root: d}
		}
		list = append(list, summarize(d, by))
	}
	return list, nil
}

// verifyRoot walks from the trusted root to d.
func (s VerifySpec) verifyRoot(d *document) error {
	at, err := openDocument(s.Root)
	if err != nil {
		return err
	}
	if err := signedBy(at, at); err != nil {
		return err
	}
	if d.version < at.version {
		return fmt.Errorf("manifest %s: root version %d is older than %d, which is trusted: %w", d.path, d.version, at.version, manifest.ErrRollback)
	}
	for at.version < d.version {
		next := d
		if at.version+1 < d.version {
			if next, err = openDocument(filepath.Join(s.Repo, manifest.FileName("root", at.version+1))); err != nil {
				return err
			}
		}
		if err := successor(at, next); err != nil {
			return err
		}
		at = next
	}
	if !bytes.Equal(at.payload, d.payload) {
		return fmt.Errorf("manifest %s: another root of version %d than the trusted one; it is of another repository: %w", d.path, d.version, manifest.ErrSignature)
	}
	if err := signedBy(d, d); err != nil {
		return err
	}
	return fresh(d, s.Now)
}
