package signer

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/manifest"
)

// A trust is who may sign what, as far as one root.json and the metadata in a folder
// say. Signatures on root and targets are judged only where a method says so: people
// add theirs to files that are not complete.
type trust struct {
	dir     string
	root    *document
	targets *document // nil when the folder has no targets.json
}

// openTrust starts from a root and follows N.root.json and N.targets.json in dir.
// With strict, each must be signed as TUF demands and not expired at now.
func openTrust(rootPath, dir string, strict bool, now time.Time) (*trust, error) {
	root, err := openRoot(rootPath)
	if err != nil {
		return nil, err
	}
	t := &trust{dir: dir, root: root}
	if err := t.follow(strict, now); err != nil {
		return nil, err
	}
	newest, err := manifest.DirFetcher(dir).Newest("targets")
	if err != nil {
		return nil, fmt.Errorf("repository %s: %w", dir, advise(err))
	}
	if newest == 0 {
		return t, nil
	}
	if t.targets, err = openVersion(dir, "targets", newest); err != nil {
		return nil, err
	}
	if !strict {
		return t, nil
	}
	return t, t.check(t.targets, now)
}

// openVersion reads VERSION.ROLE.json of a folder, which must be what its name says.
func openVersion(dir, role string, version int64) (*document, error) {
	path := filepath.Join(dir, manifest.FileName(role, version))
	d, err := openDocument(path)
	if err != nil {
		return nil, err
	}
	if d.role != role || d.version != version {
		return nil, because(manifest.ErrUntrusted, "manifest %s: holds %s version %d; get the file from the signer again",
			path, d.role, d.version)
	}
	return d, nil
}

// follow walks to the newest root in the folder, each signed by the one before.
func (t *trust) follow(strict bool, now time.Time) error {
	if strict {
		if err := signedBy(t.root, t.root); err != nil {
			return err
		}
	}
	for {
		next, err := openVersion(t.dir, "root", t.root.version+1)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return err
		}
		if strict {
			if err := successor(t.root, next); err != nil {
				return err
			}
		}
		t.root = next
	}
	if strict {
		return fresh(t.root, now)
	}
	return nil
}

// successor judges a root by the one before it.
func successor(old, next *document) error {
	if next.kind != manifest.KindRoot || next.version != old.version+1 {
		return because(manifest.ErrRollback, "manifest %s: is not root version %d", next.path, old.version+1)
	}
	if err := signedBy(old, next); err != nil {
		return err
	}
	return signedBy(next, next)
}

// check judges any document but a root: signatures, date, and for a release all that
// manifest.CheckRole demands.
func (t *trust) check(d *document, now time.Time) error {
	switch d.kind {
	case manifest.KindRoot:
		return errors.New("a root is judged by successor")
	case manifest.KindRole:
		return t.checkRelease(d, now)
	}
	if err := signedBy(t.root, d); err != nil {
		return err
	}
	return fresh(d, now)
}

func (t *trust) checkRelease(d *document, now time.Time) error {
	if t.targets == nil {
		return t.noTargets()
	}
	var files [3][]byte
	for i, doc := range []*document{t.root, t.targets, d} {
		data, err := doc.encode()
		if err != nil {
			return fmt.Errorf("manifest %s: %w", doc.path, err)
		}
		files[i] = data
	}
	if _, err := manifest.CheckRole(files[0], files[1], files[2], now); err != nil {
		return fmt.Errorf("manifest %s: %w", d.path, err)
	}
	return nil
}

func (t *trust) noTargets() error {
	return because(fs.ErrNotExist, "repository %s: no N.targets.json, so nobody knows who may sign the release; name the repository with --repo", t.dir)
}

// authority lists the keys that may sign a document, by ID, and how many must.
func (t *trust) authority(d *document) (map[string]ed25519.PublicKey, int, error) {
	switch d.kind {
	case manifest.KindRole:
		if t.targets == nil {
			return nil, 0, t.noTargets()
		}
		if keys, threshold := delegated(t.targets.targets, d.role); threshold > 0 {
			return keys, threshold, nil
		}
		return nil, 0, because(fs.ErrNotExist, "channel %q for %s: not in repository %s, which has %s",
			d.release.Channel, d.release.Arch, t.dir, strings.Join(t.channels(), ", "))
	default:
		keys, threshold := listed(t.root.root, d.role)
		return keys, threshold, nil
	}
}

// channels lists the delegated roles.
func (t *trust) channels() []string {
	names := []string{}
	if t.targets == nil || t.targets.targets.Signed.Delegations == nil {
		return names
	}
	for _, r := range t.targets.targets.Signed.Delegations.Roles {
		names = append(names, r.Name)
	}
	return names
}

func listed(root *metadata.Metadata[metadata.RootType], role string) (map[string]ed25519.PublicKey, int) {
	r := root.Signed.Roles[role]
	if r == nil {
		return nil, 0
	}
	return publicKeys(root.Signed.Keys, r.KeyIDs), r.Threshold
}

func delegated(targets *metadata.Metadata[metadata.TargetsType], role string) (map[string]ed25519.PublicKey, int) {
	if targets.Signed.Delegations == nil {
		return nil, 0
	}
	for _, r := range targets.Signed.Delegations.Roles {
		if r.Name == role {
			return publicKeys(targets.Signed.Delegations.Keys, r.KeyIDs), r.Threshold
		}
	}
	return nil, 0
}

// publicKeys reads keys that the lint has found to be Ed25519.
func publicKeys(all map[string]*metadata.Key, ids []string) map[string]ed25519.PublicKey {
	keys := make(map[string]ed25519.PublicKey, len(ids))
	for _, id := range ids {
		if raw, err := hex.DecodeString(all[id].Value.PublicKey); err == nil && len(raw) == ed25519.PublicKeySize {
			keys[id] = raw
		}
	}
	return keys
}

// signedBy demands that the keys which root lists for d's role have signed d.
func signedBy(root, d *document) error {
	if root.root.VerifyDelegate(d.role, d.meta) == nil {
		return sameRepository(root, d)
	}
	keys, threshold := listed(root.root, d.role)
	good, _, _ := d.judge(keys)
	return because(manifest.ErrSignature, "manifest %s: %d of %d good signatures by the keys of root version %d; is this the right root.json?",
		d.path, len(good), threshold, root.version)
}

// sameRepository refuses a file of another repository than the root's, whoever signed it.
func sameRepository(root, d *document) error {
	if d.repository == root.repository {
		return nil
	}
	return because(manifest.ErrRepository, "manifest %s: made for repository %s, and the root is that of repository %s; is this the right root.json?",
		d.path, orNone(d.repository), orNone(root.repository))
}

func orNone(id string) string {
	if id == "" {
		return "none"
	}
	return id
}

// begun refuses a release whose first signer had a clock far ahead of now.
func (d *document) begun(now time.Time) error {
	if d.kind != manifest.KindRole {
		return nil
	}
	if err := d.release.CheckSignedAt(now); err != nil {
		return fmt.Errorf("manifest %s: %w", d.path, err)
	}
	return nil
}

func fresh(d *document, now time.Time) error {
	if !now.Before(d.expires) {
		return because(manifest.ErrExpired, "manifest %s: expired on %s; sign a newer one", d.path, stamp(d.expires))
	}
	return nil
}
