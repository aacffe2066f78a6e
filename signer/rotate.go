package signer

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/internal/ipnsname"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/signer/key"
)

// RotateSpec has the changes for the next root and the next targets. An empty field changes
// nothing. When all are empty, both are renewed with later dates.
type RotateSpec struct {
	Repo string
	Out  string    // folder for the new files; Repo itself when empty, which accepts complete files only
	Keys []key.Key // keys to sign with: root keys of the old or the new root

	AddRoot       []key.Key // keys with a private half sign too
	RemoveRoot    []string
	RootThreshold int

	Online           ed25519.PublicKey // replaces the online key
	IPNS             ed25519.PublicKey // its name becomes the first in the list
	RemoveIPNS       []string          // names
	HTTPS, Bootstrap []string          // replace the lists

	Channels, Archs  []string // channels whose release keys change, all when empty; new channels are made
	AddRelease       []ed25519.PublicKey
	RemoveRelease    []string // key IDs or the first digits of them, as in RemoveRoot
	ReleaseThreshold int

	Config          bool                // adds the role config, with the keys and the threshold of the first channel unless ConfigKeys says others
	ConfigKeys      []ed25519.PublicKey // replace the keys of the role config; adds it if it is missing
	ConfigThreshold int                 // 0: as before, and 1 for new keys

	Now                           time.Time
	RootLifetime, TargetsLifetime time.Duration
}

// RotateResult is what Rotate made.
type RotateResult struct {
	Dir      string    `json:"dir"` // folder of the new files
	Repo     string    `json:"repo"`
	Files    []Summary `json:"files"` // the new root, the new targets, or both
	Complete bool      `json:"complete"`
}

// Rotate writes the root and the targets that follow those of a repository: with other root keys,
// thresholds, online key, IPNS keys, mirrors, release keys or later dates. It signs with s.Keys;
// other signers use Add, which accepts old and new root keys for a root and new root keys for
// targets. A new root is valid when the thresholds of the old and of the new root are reached.
//
// The new files are written to Out, with copies of the files before them, so that the folder alone
// is enough on the next machine. Without Out they are written to the repository if they are
// complete; otherwise nothing is written and the error wraps manifest.ErrSignature. Keys and
// thresholds that are not allowed wrap fs.ErrInvalid. The repository's files must be signed and may
// be expired.
func Rotate(ctx context.Context, s RotateSpec) (RotateResult, error) {
	r, err := openRepository(filepath.Join(s.Repo, RootName), s.Repo, true, time.Time{})
	if err != nil {
		return RotateResult{}, err
	}
	if sameFolder(s.Out, s.Repo) {
		s.Out = ""
	}
	if r.targets == nil {
		return RotateResult{}, r.noTargets()
	}
	p, err := s.plan(r)
	if err != nil {
		return RotateResult{}, err
	}
	if err := p.build(s); err != nil {
		return RotateResult{}, err
	}
	if err := p.signAll(ctx, append(slices.Clone(s.Keys), withPrivate(s.AddRoot)...)); err != nil {
		return RotateResult{}, err
	}
	return p.write(s)
}

// A rotation is the next root and the next targets of a repository while they are made.
type rotation struct {
	old      *repository
	root     manifest.RootSpec
	releases []manifest.Delegation

	newRoot, newTargets bool
	docs                []*document // the new files, root first
}

// plan decides the content of the next files.
func (s RotateSpec) plan(r *repository) (*rotation, error) {
	p := &rotation{old: r}
	if err := p.read(); err != nil {
		return nil, err
	}
	before := len(p.releases)
	if err := s.planRoot(p); err != nil {
		return nil, err
	}
	if err := s.planReleases(p); err != nil {
		return nil, err
	}
	if err := s.planConfig(p); err != nil {
		return nil, err
	}
	owners := len(s.AddRoot)+len(s.RemoveRoot)+s.RootThreshold > 0
	p.newRoot = owners || s.Online != nil || s.IPNS != nil || s.RemoveIPNS != nil || s.HTTPS != nil || s.Bootstrap != nil
	p.newTargets = owners || s.changesReleases() || s.changesConfig() || len(p.releases) > before
	if !p.newRoot && !p.newTargets {
		p.newRoot, p.newTargets = true, true
	}
	return p, p.check()
}

func (s RotateSpec) changesReleases() bool {
	return len(s.AddRelease)+len(s.RemoveRelease)+s.ReleaseThreshold > 0
}

func (s RotateSpec) changesConfig() bool {
	return s.Config || len(s.ConfigKeys) > 0 || s.ConfigThreshold > 0
}

// planConfig adds the role config, or changes its keys.
func (s RotateSpec) planConfig(p *rotation) error {
	if !s.changesConfig() {
		return nil
	}
	i := slices.IndexFunc(p.releases, manifest.Delegation.IsConfig)
	switch {
	case i >= 0 && len(s.ConfigKeys) == 0 && s.ConfigThreshold == 0:
		return refusal.Invalid("role config: is in repository %s already; name other keys with --config-key", s.Repo)
	case i < 0 && len(p.releases) == 0:
		return refusal.Invalid("role config: the repository has no channel whose keys could sign it; name keys with --config-key")
	case i < 0:
		first := p.releases[0]
		i = len(p.releases)
		p.releases = append(p.releases, manifest.Delegation{Channel: manifest.ConfigRole, Keys: first.Keys, Threshold: first.Threshold})
	}
	d := &p.releases[i]
	if len(s.ConfigKeys) > 0 {
		d.Keys, d.Threshold = s.ConfigKeys, 1
	}
	if s.ConfigThreshold > 0 {
		d.Threshold = s.ConfigThreshold
	}
	return nil
}

// read copies the content of the repository's root and targets.
func (p *rotation) read() (err error) {
	root := p.old.verified
	p.root = manifest.RootSpec{Version: root.Version() + 1, Discovery: root.Discovery(), Repository: root.Repository()}
	p.root.Root, p.root.Threshold = root.Keys("root")
	p.root.Online, _ = root.Keys("timestamp")
	p.releases, err = manifest.ReadDelegations(p.old.targets.Data())
	return err
}

func (s RotateSpec) planRoot(p *rotation) (err error) {
	if p.root.Root, err = change("root", p.root.Root, publicKeys(s.AddRoot), s.RemoveRoot); err != nil {
		return err
	}
	if s.RootThreshold > 0 {
		p.root.Threshold = s.RootThreshold
	}
	if s.Online != nil {
		p.root.Online = []ed25519.PublicKey{s.Online}
	}
	if err := s.planNames(&p.root.Discovery); err != nil {
		return err
	}
	if s.HTTPS != nil {
		p.root.Discovery.HTTPS = s.HTTPS
	}
	if s.Bootstrap != nil {
		p.root.Discovery.Bootstrap = s.Bootstrap
	}
	p.root.Expires = s.Now.Add(s.RootLifetime)
	return nil
}

// planNames changes the IPNS names. An old name may stay as long as there are images that have no
// other name: a name only points to metadata and is not trusted.
func (s RotateSpec) planNames(d *manifest.Discovery) error {
	for _, name := range s.RemoveIPNS {
		i := slices.Index(d.IPNS, name)
		if i < 0 {
			return refusal.Invalid("IPNS name %.80q: is not listed; there are %s", name, strings.Join(d.IPNS, ", "))
		}
		d.IPNS = slices.Delete(d.IPNS, i, i+1)
	}
	if s.IPNS != nil {
		name, err := ipnsname.Of(s.IPNS)
		if err != nil {
			return err
		}
		if slices.Contains(d.IPNS, name) {
			return refusal.Invalid("IPNS name %s: is listed already", name)
		}
		d.IPNS = append([]string{name}, d.IPNS...)
	}
	if len(d.IPNS) == 0 {
		return refusal.Invalid("IPNS names: the last one would be removed; add one with --ipns-key")
	}
	return nil
}

// planReleases changes the release keys of the named channels and adds new channels.
func (s RotateSpec) planReleases(p *rotation) error {
	if !s.changesReleases() {
		if len(s.Channels)+len(s.Archs) > 0 {
			return refusal.Invalid("--channel and --arch: no change of release keys is given; add --add-release-key, --remove-release-key or --release-threshold")
		}
		return nil
	}
	if err := s.makeReleases(p); err != nil {
		return err
	}
	for i := range p.releases {
		d := &p.releases[i]
		if d.IsConfig() { // --config-key changes its keys
			continue
		}
		if len(s.Channels) > 0 && !slices.Contains(s.Channels, d.Channel) || len(s.Archs) > 0 && !slices.Contains(s.Archs, d.Arch) {
			continue
		}
		var err error
		if d.Keys, err = change("release", d.Keys, s.AddRelease, s.RemoveRelease); err != nil {
			return fmt.Errorf("channel %q for %s: %w", d.Channel, d.Arch, err)
		}
		if s.ReleaseThreshold > 0 {
			d.Threshold = s.ReleaseThreshold
		}
	}
	return nil
}

// makeReleases adds a delegation without keys for each named channel and architecture without one.
func (s RotateSpec) makeReleases(p *rotation) error {
	for _, channel := range s.Channels {
		for _, arch := range s.Archs {
			if _, err := roleName(channel, arch); err != nil {
				return err
			}
			if !slices.ContainsFunc(p.releases, func(d manifest.Delegation) bool { return d.Channel == channel && d.Arch == arch }) {
				p.releases = append(p.releases, manifest.Delegation{Channel: channel, Arch: arch, Threshold: 1})
			}
		}
	}
	for _, channel := range s.Channels {
		if !slices.ContainsFunc(p.releases, func(d manifest.Delegation) bool { return d.Channel == channel }) {
			return refusal.New(fs.ErrNotExist, "channel %q: not in repository %s; name --arch as well to make it", channel, s.Repo)
		}
	}
	return nil
}

// change returns a list of keys without those of some IDs and with others added.
func change(what string, keys, add []ed25519.PublicKey, remove []string) ([]ed25519.PublicKey, error) {
	keys = slices.Clone(keys)
	for _, id := range remove {
		i, err := find(what, keys, id)
		if err != nil {
			return nil, err
		}
		keys = slices.Delete(keys, i, i+1)
	}
	for _, key := range add {
		if contains(keys, key) {
			return nil, refusal.Invalid("%s key to add: is listed already", what)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// find returns the index of the only key whose ID begins with id.
func find(what string, keys []ed25519.PublicKey, id string) (int, error) {
	at := -1
	ids := make([]string, len(keys))
	for i, key := range keys {
		ids[i] = manifest.KeyID(key)
		if len(id) >= 8 && strings.HasPrefix(ids[i], id) {
			if at >= 0 {
				return -1, refusal.Invalid("%s key %.64q: two keys begin with it; write more digits", what, id)
			}
			at = i
		}
	}
	if at < 0 {
		return -1, refusal.Invalid("%s key %.8s…: is not listed; there are %s", what, id, short(ids))
	}
	return at, nil
}

// check refuses keys and thresholds that no repository should have.
func (p *rotation) check() error {
	held := publisherKeys{online: p.root.Online}
	for _, name := range p.root.Discovery.IPNS {
		if key, err := ipnsname.Key(name); err == nil {
			held.ipns = append(held.ipns, key)
		}
	}
	if err := checkOwners("root", p.root.Root, p.root.Threshold, held); err != nil {
		return err
	}
	for _, d := range p.releases {
		if d.IsConfig() {
			if err := checkOwners("config", d.Keys, d.Threshold, held); err != nil {
				return fmt.Errorf("role config: %w", err)
			}
			continue
		}
		if err := checkOwners("release", d.Keys, d.Threshold, held); err != nil {
			return fmt.Errorf("channel %q for %s: %w", d.Channel, d.Arch, err)
		}
	}
	return held.check()
}
