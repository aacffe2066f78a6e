package signer

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/signer/key"
)

// A repository is the newest root and the newest targets of a folder: they list the keys of each
// role. verified is set when manifest has verified both; otherwise they were only read, for
// signers who add their signature to files that are not complete yet.
type repository struct {
	dir      string
	trusted  *document // the root that was named; root follows from it
	root     *document
	targets  *document // nil when the folder has none
	verified *manifest.Root
}

// openRepository reads a root, follows N.root.json in dir to the newest one, and reads the newest
// N.targets.json. With verify, all of them must be valid at now; the zero time checks no expiry.
func openRepository(rootPath, dir string, verify bool, now time.Time) (*repository, error) {
	root, err := openRoot(rootPath)
	if err != nil {
		return nil, err
	}
	r := &repository{dir: dir, trusted: root, root: root}
	if verify {
		if r.verified, err = root.Root(); err != nil {
			return nil, root.fail(err)
		}
	}
	if err := r.followRoots(); err != nil {
		return nil, err
	}
	if verify {
		if err := r.root.fail(r.root.CheckExpiry(now)); err != nil {
			return nil, err
		}
	}
	if err := r.openTargets(); err != nil {
		return nil, err
	}
	if r.targets == nil || !verify {
		return r, nil
	}
	return r, r.check(r.targets, now)
}

// followRoots reads the roots after the first one, each signed by the one before when they are
// verified.
func (r *repository) followRoots() error {
	for {
		next, err := openVersion(r.dir, "root", r.root.Version()+1)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && r.verified != nil {
			r.verified, err = r.verified.NextDocument(next.Document)
			err = next.fail(err)
		}
		if err != nil {
			return err
		}
		r.root = next
	}
}

// openTargets reads the newest N.targets.json, if there is one.
func (r *repository) openTargets() error {
	newest, err := manifest.DirFetcher(r.dir).Newest("targets")
	if err != nil {
		return fmt.Errorf("repository %s: %w", r.dir, file.Advise(err))
	}
	if newest > 0 {
		r.targets, err = openVersion(r.dir, "targets", newest)
	}
	return err
}

// check lets manifest judge a document other than a root by the verified repository.
func (r *repository) check(d *document, now time.Time) error {
	if !delegated(d.Kind()) {
		if err := r.verified.CheckDocument(d.Document); err != nil {
			return d.fail(err)
		}
		return d.fail(d.CheckExpiry(now))
	}
	if r.targets == nil {
		return r.noTargets()
	}
	var err error
	if d.Kind() == manifest.KindConfig {
		_, err = manifest.CheckConfig(r.root.Data(), r.targets.Data(), d.Data(), now)
	} else {
		_, err = manifest.CheckRole(r.root.Data(), r.targets.Data(), d.Data(), now)
	}
	return d.fail(err)
}

func (r *repository) noTargets() error {
	return refusal.New(fs.ErrNotExist, "repository %s: no N.targets.json, which lists the keys of releases; name the repository with --repo", r.dir)
}

// lister is the document that lists the keys of a kind of metadata, nil when the folder has none.
func (r *repository) lister(kind manifest.Kind) *document {
	if delegated(kind) {
		return r.targets
	}
	return r.root
}

// delegated reports whether targets.json lists the keys of a kind of metadata.
func delegated(kind manifest.Kind) bool {
	return kind == manifest.KindRole || kind == manifest.KindConfig
}

// signatures counts the signatures of d by the keys that the repository lists for its role. A nil
// repository lists none.
func (r *repository) signatures(d *document) manifest.Signatures {
	if r == nil || r.lister(d.Kind()) == nil {
		return d.SignaturesFor(nil)
	}
	return d.SignaturesFor(r.lister(d.Kind()).Document)
}

// keysOf returns the IDs of the keys that may sign a role.
func (r *repository) keysOf(kind manifest.Kind, role string) ([]string, error) {
	lister := r.lister(kind)
	if lister == nil {
		return nil, r.noTargets()
	}
	names := []string{}
	for _, k := range lister.Roles() {
		if k.Name == role {
			return k.Keys, nil
		}
		names = append(names, k.Name)
	}
	if kind == manifest.KindConfig {
		return nil, refusal.New(fs.ErrNotExist, "repository %s: has no role config, which signs the settings of machines; the root keys add it with 'phase-sign rotate --config'", r.dir)
	}
	channel, arch, _ := manifest.SplitRole(role)
	return nil, refusal.New(fs.ErrNotExist, "channel %q for %s: not in repository %s, which has %s", channel, arch, r.dir, strings.Join(names, ", "))
}

// checkKeys refuses keys that are not in a list of key IDs.
func checkKeys(role string, listed []string, keys []key.Key) error {
	for _, k := range keys {
		if !slices.Contains(listed, k.ID()) {
			return refusal.New(manifest.ErrSignature, "key %s (%.8s…): may not sign %s; its keys are %s", k.Name(), k.ID(), role, short(slices.Compact(slices.Sorted(slices.Values(listed)))))
		}
	}
	return nil
}

// previous is the root before d, nil when it is not in the folder.
func (r *repository) previous(d *document) *document {
	old, err := openVersion(r.dir, "root", d.Version()-1)
	if err != nil {
		return nil
	}
	return old
}

// checkRepository refuses a document of another repository. The first root, and a root without the
// one before it in the folder, are accepted: there is nothing to compare them with.
func (r *repository) checkRepository(d *document) error {
	root := r.root
	if d.Kind() == manifest.KindRoot {
		root = r.previous(d)
	}
	if root == nil {
		return nil
	}
	return d.fail(d.CheckRepository(root.Document))
}

// repositoryOf opens the repository that lists the keys of d, without verifying it: the one at dir,
// or the folder of d. A root lists its own keys.
func repositoryOf(d *document, dir string) (*repository, error) {
	unnamed := dir == ""
	if unnamed {
		dir = d.folder()
	}
	if d.Kind() == manifest.KindRoot {
		return &repository{dir: dir, root: d}, nil
	}
	r, err := openRepository(filepath.Join(dir, RootName), dir, false, time.Time{})
	if unnamed && errors.Is(err, fs.ErrNotExist) {
		return nil, refusal.New(fs.ErrNotExist, "manifest %s: no root.json in its folder, which lists the keys; name the repository with --repo", d.path)
	}
	return r, err
}
