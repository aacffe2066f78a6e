package signer

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/internal/ipnsname"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/signer/key"
)

// RootName is the copy of the newest root in a repository: the file that goes into images.
const RootName = "root.json"

// InitSpec is the content of a new repository.
type InitSpec struct {
	Dir                           string    // made when missing
	Root                          []key.Key // those with a private half sign
	RootThreshold                 int
	Release                       []ed25519.PublicKey
	ReleaseThreshold              int
	Online                        ed25519.PublicKey // snapshot and timestamp
	IPNS                          ed25519.PublicKey
	Channels, Archs               []string // every pair gets a delegation
	HTTPS                         []string
	Bootstrap                     []string // multiaddrs with /p2p/ID
	DHTPrefix                     string   // /phaseboot/<IPNS name> when empty
	Now                           time.Time
	RootLifetime, TargetsLifetime time.Duration
}

// InitResult is what Init made.
type InitResult struct {
	Dir           string    `json:"repo"`
	ID            string    `json:"repository"` // random; every file of the repository has it
	Files         []string  `json:"files"`      // paths
	Roles         []string  `json:"roles"`      // delegated roles
	IPNS          string    `json:"ipns"`
	Prefix        string    `json:"dht_prefix"`
	Missing       int       `json:"signatures_missing"` // root signatures that are missing until the root is valid
	Expires       time.Time `json:"expires"`            // of the root
	TargetsExpire time.Time `json:"targets_expire"`     // of the delegations
}

// Init writes 1.root.json, 1.targets.json and root.json, signed by the root keys with a private
// half. The other root keys sign later, with Add. An existing repository is not changed: the error
// wraps fs.ErrExist. A spec that is not allowed wraps fs.ErrInvalid.
func Init(ctx context.Context, s InitSpec) (InitResult, error) {
	if err := s.check(); err != nil {
		return InitResult{}, err
	}
	name, err := ipnsname.Of(s.IPNS)
	if err != nil {
		return InitResult{}, err
	}
	if s.DHTPrefix == "" {
		s.DHTPrefix = "/phaseboot/" + name
	}
	id := manifest.NewRepositoryID()
	root, err := newRoot(s.rootSpec(name, id))
	if err != nil {
		return InitResult{}, err
	}
	delegations, roles, err := s.delegations()
	if err != nil {
		return InitResult{}, err
	}
	targets, err := newTargets(1, s.Now.Add(s.TargetsLifetime), id, delegations)
	if err != nil {
		return InitResult{}, err
	}
	for _, d := range []*document{root, targets} {
		if err := d.sign(ctx, withPrivate(s.Root)...); err != nil {
			return InitResult{}, err
		}
	}
	files, err := writeRepository(ctx, s.Dir, root, targets)
	if err != nil {
		return InitResult{}, err
	}
	return InitResult{
		Dir: s.Dir, ID: id, Files: files, Roles: roles, IPNS: name, Prefix: s.DHTPrefix,
		Missing: root.SignaturesFor(root.Document).Missing(), Expires: root.Expires(), TargetsExpire: targets.Expires(),
	}, nil
}

// check refuses keys and thresholds that no repository should have.
func (s InitSpec) check() error {
	held := publisherKeys{[]ed25519.PublicKey{s.Online}, []ed25519.PublicKey{s.IPNS}}
	if err := checkOwners("root", publicKeys(s.Root), s.RootThreshold, held); err != nil {
		return err
	}
	if err := checkOwners("release", s.Release, s.ReleaseThreshold, held); err != nil {
		return err
	}
	if err := held.check(); err != nil {
		return err
	}
	if len(s.Channels) == 0 || len(s.Archs) == 0 {
		return refusal.Invalid("channel or architecture: missing; give --channel and --arch")
	}
	return nil
}

// publisherKeys are the keys on a publisher. An attacker who breaks into it has them.
type publisherKeys struct{ online, ipns []ed25519.PublicKey }

func (p publisherKeys) check() error {
	for _, key := range p.online {
		if contains(p.ipns, key) {
			return refusal.Invalid("IPNS key: is also the online key, so replacing one would replace the other; make another key")
		}
	}
	return nil
}

// checkOwners refuses keys and a threshold that a role must not have.
func checkOwners(what string, keys []ed25519.PublicKey, threshold int, held publisherKeys) error {
	if len(keys) == 0 {
		return refusal.Invalid("%s keys: none; give at least one", what)
	}
	if threshold < 1 || threshold > len(keys) {
		return refusal.Invalid("%s threshold %d: must be from 1 to %d, the number of %s keys", what, threshold, len(keys), what)
	}
	for i, key := range keys {
		switch {
		case contains(keys[:i], key):
			return refusal.Invalid("%s key %d: is given twice; give each key once", what, i+1)
		case contains(held.online, key):
			return refusal.Invalid("online key: is also a %s key, so a stolen publisher could sign releases; make another key", what)
		case contains(held.ipns, key):
			return refusal.Invalid("IPNS key: is also a %s key, so a stolen publisher could sign releases; make another key", what)
		}
	}
	return nil
}

// contains reports whether a list has a key.
func contains(keys []ed25519.PublicKey, key ed25519.PublicKey) bool {
	for _, k := range keys {
		if k.Equal(key) {
			return true
		}
	}
	return false
}

func (s InitSpec) rootSpec(ipns, id string) manifest.RootSpec {
	return manifest.RootSpec{
		Version: 1, Root: publicKeys(s.Root), Threshold: s.RootThreshold, Online: []ed25519.PublicKey{s.Online},
		Expires: s.Now.Add(s.RootLifetime), Repository: id,
		Discovery: manifest.Discovery{
			IPNS: []string{ipns}, HTTPS: s.HTTPS, DHTPrefix: s.DHTPrefix, Bootstrap: s.Bootstrap,
		},
	}
}

func publicKeys(keys []key.Key) (list []ed25519.PublicKey) {
	for _, k := range keys {
		list = append(list, k.Public())
	}
	return list
}

func (s InitSpec) delegations() (list []manifest.Delegation, roles []string, err error) {
	for _, channel := range s.Channels {
		for _, arch := range s.Archs {
			role, err := roleName(channel, arch)
			if err != nil {
				return nil, nil, err
			}
			roles = append(roles, role)
			list = append(list, manifest.Delegation{Channel: channel, Arch: arch, Keys: s.Release, Threshold: s.ReleaseThreshold})
		}
	}
	return list, roles, nil
}

// roleName is manifest.RoleName for names from a command line.
func roleName(channel, arch string) (string, error) {
	if err := bootfile.CheckArch(arch); err != nil {
		return "", err
	}
	role, err := manifest.RoleName(channel, arch)
	if err != nil {
		return "", refusal.Invalid("%v", err)
	}
	return role, nil
}

// newRoot builds an unsigned root.
func newRoot(s manifest.RootSpec) (*document, error) {
	m, err := manifest.NewRoot(s)
	if err != nil {
		return nil, refusal.Invalid("root: %v", err)
	}
	return built(manifest.NewDocument(manifest.KindRoot, m))
}

// newTargets builds an unsigned targets.json of the repository with an ID.
func newTargets(version int64, expires time.Time, id string, delegations []manifest.Delegation) (*document, error) {
	m, err := manifest.NewTargets(version, expires, delegations...)
	if err != nil {
		return nil, refusal.Invalid("targets: %v", err)
	}
	manifest.SetRepository(m, id)
	return built(manifest.NewDocument(manifest.KindTargets, m))
}

// built names a document by the file name that it has in a repository.
func built(d *manifest.Document, err error) (*document, error) {
	if err != nil {
		return nil, err
	}
	return &document{d, manifest.FileName(d.Role(), d.Version())}, nil
}

// writeRepository writes all files or none, root.json last.
func writeRepository(ctx context.Context, dir string, root, targets *document) (paths []string, err error) {
	if old, _ := filepath.Glob(filepath.Join(dir, "*root.json")); len(old) > 0 {
		return nil, fmt.Errorf("repository %s: %w and is never replaced; choose another --repo", dir, fs.ErrExist)
	}
	made, err := makeDir(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			undo(paths, dir, made)
			paths = nil
		}
	}()
	for _, f := range []struct {
		name string
		data []byte
	}{{manifest.FileName("root", 1), root.Data()}, {manifest.FileName("targets", 1), targets.Data()}, {RootName, root.Data()}} {
		if err := ctx.Err(); err != nil {
			return paths, fmt.Errorf("repository %s: %w", dir, err)
		}
		path := filepath.Join(dir, f.name)
		if err := atomicfile.Create(path, 0o644, f.data); err != nil {
			return paths, fmt.Errorf("repository %s: %w", dir, err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// makeDir makes a folder. made reports whether it was missing.
func makeDir(dir string) (made bool, err error) {
	info, err := os.Stat(dir)
	made = errors.Is(err, fs.ErrNotExist)
	if err == nil && !info.IsDir() {
		return false, refusal.Invalid("repository %s: is a file; name a folder", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, fmt.Errorf("repository: %w", err)
	}
	return made, nil
}

// undo removes the files of a failed Init. Its own errors are not reported: the first one is.
func undo(paths []string, dir string, made bool) {
	for _, path := range paths {
		_ = os.Remove(path)
	}
	if made {
		_ = os.Remove(dir)
	}
}

// Words describes the new repository for an operator.
func (r InitResult) Words() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Repository %s, root until %s, targets until %s\n", r.Dir, stamp(r.Expires), stamp(r.TargetsExpire))
	fmt.Fprintf(&b, "  ID        %s\n  releases  %s\n  IPNS name %s\n  DHT       %s\n", r.ID, strings.Join(r.Roles, ", "), r.IPNS, r.Prefix)
	fmt.Fprintf(&b, "  %s is the file that goes into images\n", filepath.Join(r.Dir, RootName))
	if r.Missing > 0 {
		fmt.Fprintf(&b, "Not valid yet: %d more root signatures; run on the machine of each other root key:\n  phase-sign add --key KEY %s %s\n",
			r.Missing, filepath.Join(r.Dir, "1.root.json"), filepath.Join(r.Dir, "1.targets.json"))
	}
	return b.String()
}
