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

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/manifest"
)

// RotateSpec is what the next root and the next targets are to say. What is empty stays
// as it is; where all of it is empty both are renewed as they are.
type RotateSpec struct {
	Repo string
	Out  string // folder for the new files; Repo itself when empty, which takes complete ones only
	Keys []Key  // sign; root keys of before or after

	AddRoot       []Key // those with a private half sign too
	RemoveRoot    []string
	RootThreshold int

	Online           ed25519.PublicKey // takes the place of the one before
	IPNS             ed25519.PublicKey // its name goes before the others
	RemoveIPNS       []string          // names
	HTTPS, Bootstrap []string          // take the place of the lists before

	Channels, Archs  []string // whose release keys change, every one of the repository when empty; new ones are made
	AddRelease       []ed25519.PublicKey
	RemoveRelease    []string // key IDs or what they begin with, as RemoveRoot
	ReleaseThreshold int

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

// Rotate writes the root and the targets that follow those of a repository: root keys
// added and removed, thresholds, the online and the IPNS key, mirrors, the release keys
// of channels, later dates. It signs with the keys that are here; the others sign with
// Add, which takes old and new root keys for a root and the new ones for targets. A new
// root is good when the thresholds of both have signed.
//
// The files go into Out, together with the ones before, so that the folder alone is
// enough on the next machine. Without Out they go into the repository, if they are
// complete; if not, nothing is written and the error wraps manifest.ErrSignature.
// What cannot be said in a repository wraps fs.ErrInvalid. The repository's files may
// have expired, they must be signed.
func Rotate(ctx context.Context, s RotateSpec) (RotateResult, error) {
	t, err := openTrust(filepath.Join(s.Repo, RootName), s.Repo, true, time.Time{})
	if err != nil {
		return RotateResult{}, err
	}
	if sameFolder(s.Out, s.Repo) {
		s.Out = ""
	}
	if t.targets == nil {
		return RotateResult{}, t.noTargets()
	}
	p, err := s.plan(t)
	if err != nil {
		return RotateResult{}, err
	}
	if err := p.build(s); err != nil {
		return RotateResult{}, err
	}
	if err := p.signAll(append(slices.Clone(s.Keys), withPrivate(s.AddRoot)...)); err != nil {
		return RotateResult{}, err
	}
	if err := ctx.Err(); err != nil {
		return RotateResult{}, err
	}
	return p.write(s)
}

// A rotation is the next root and targets in the making.
type rotation struct {
	old      *trust
	root     manifest.RootSpec
	releases []manifest.Delegation

	newRoot, newTargets bool
	docs                []*document // what is new
}

// plan says what the next files hold.
func (s RotateSpec) plan(t *trust) (*rotation, error) {
	p := &rotation{old: t}
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
	owners := len(s.AddRoot)+len(s.RemoveRoot)+s.RootThreshold > 0
	p.newRoot = owners || s.Online != nil || s.IPNS != nil || s.RemoveIPNS != nil || s.HTTPS != nil || s.Bootstrap != nil
	p.newTargets = owners || s.changesReleases() || len(p.releases) > before
	if !p.newRoot && !p.newTargets {
		p.newRoot, p.newTargets = true, true
	}
	return p, p.check()
}

func (s RotateSpec) changesReleases() bool {
	return len(s.AddRelease)+len(s.RemoveRelease)+s.ReleaseThreshold > 0
}

// read takes over what the repository says now.
func (p *rotation) read() error {
	data, err := p.old.root.encode()
	if err != nil {
		return err
	}
	root, err := manifest.ParseRoot(data)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", p.old.root.path, err)
	}
	p.root = manifest.RootSpec{Version: root.Version() + 1, Discovery: root.Discovery(), Repository: root.Repository()}
	p.root.Root, p.root.Threshold = root.Keys("root")
	p.root.Online, _ = root.Keys("timestamp")
	if data, err = p.old.targets.encode(); err != nil {
		return err
	}
	p.releases, err = manifest.ReadDelegations(data)
	return err
}

func (s RotateSpec) planRoot(p *rotation) (err error) {
	publics := make([]ed25519.PublicKey, len(s.AddRoot))
	for i, k := range s.AddRoot {
		publics[i] = k.public
	}
	if p.root.Root, err = change("root", p.root.Root, publics, s.RemoveRoot); err != nil {
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

// planNames changes the IPNS names. An old one may stay as long as there are images that
// know no other: it is a pointer and trusted with nothing.
func (s RotateSpec) planNames(d *manifest.Discovery) error {
	for _, name := range s.RemoveIPNS {
		i := slices.Index(d.IPNS, name)
		if i < 0 {
			return invalid("IPNS name %.80q: is not listed; there are %s", name, strings.Join(d.IPNS, ", "))
		}
		d.IPNS = slices.Delete(d.IPNS, i, i+1)
	}
	if s.IPNS != nil {
		name, err := IPNSName(s.IPNS)
		if err != nil {
			return err
		}
		if slices.Contains(d.IPNS, name) {
			return invalid("IPNS name %s: is listed already", name)
		}
		d.IPNS = append([]string{name}, d.IPNS...)
	}
	if len(d.IPNS) == 0 {
		return invalid("the last IPNS name would go; add one with --ipns-key")
	}
	return nil
}

// planReleases changes the keys of the channels that were named, and makes those that
// are not there yet.
func (s RotateSpec) planReleases(p *rotation) error {
	if !s.changesReleases() {
		if len(s.Channels)+len(s.Archs) > 0 {
			return invalid("--channel and --arch say whose release keys change; say how")
		}
		return nil
	}
	at := func(channel, arch string) int {
		return slices.IndexFunc(p.releases, func(d manifest.Delegation) bool { return d.Channel == channel && d.Arch == arch })
	}
	if err := s.makeReleases(p, at); err != nil {
		return err
	}
	for i := range p.releases {
		d := &p.releases[i]
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

// makeReleases adds a delegation without keys for each named pair that has none.
func (s RotateSpec) makeReleases(p *rotation, at func(channel, arch string) int) error {
	for _, channel := range s.Channels {
		for _, arch := range s.Archs {
			if _, err := roleName(channel, arch); err != nil {
				return err
			}
			if at(channel, arch) < 0 {
				p.releases = append(p.releases, manifest.Delegation{Channel: channel, Arch: arch, Threshold: 1})
			}
		}
	}
	for _, channel := range s.Channels {
		if !slices.ContainsFunc(p.releases, func(d manifest.Delegation) bool { return d.Channel == channel }) {
			return because(fs.ErrNotExist, "channel %q: not in repository %s; name --arch as well to make it", channel, s.Repo)
		}
	}
	return nil
}

// change is a list of keys with some removed, by ID, and others added.
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
			return nil, invalid("%s key to add: is listed already", what)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// find returns the place of the one key whose ID begins with id.
func find(what string, keys []ed25519.PublicKey, id string) (int, error) {
	at := -1
	ids := make([]string, len(keys))
	for i, key := range keys {
		var err error
		if ids[i], err = manifest.KeyID(key); err != nil {
			return -1, err
		}
		if len(id) >= 8 && strings.HasPrefix(ids[i], id) {
			if at >= 0 {
				return -1, invalid("%s key %.64q: two keys begin so; write more of it", what, id)
			}
			at = i
		}
	}
	if at < 0 {
		return -1, invalid("%s key %.8s…: is not listed; there are %s", what, id, short(ids))
	}
	return at, nil
}

// check refuses what no repository should say.
func (p *rotation) check() error {
	held := publisherKeys{online: p.root.Online}
	for _, name := range p.root.Discovery.IPNS {
		if key, err := ipnsKey(name); err == nil {
			held.ipns = append(held.ipns, key)
		}
	}
	if err := checkOwners("root", p.root.Root, p.root.Threshold, held); err != nil {
		return err
	}
	for _, d := range p.releases {
		if err := checkOwners("release", d.Keys, d.Threshold, held); err != nil {
			return fmt.Errorf("channel %q for %s: %w", d.Channel, d.Arch, err)
		}
	}
	return held.check()
}

// ipnsKey is the key in an IPNS name; Ed25519 names hold theirs whole.
func ipnsKey(name string) (ed25519.PublicKey, error) {
	id, err := peer.Decode(name)
	if err != nil {
		return nil, err
	}
	key, err := id.ExtractPublicKey()
	if err != nil {
		return nil, err
	}
	return key.Raw()
}
