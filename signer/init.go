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

	libp2p "github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multibase"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/manifest"
)

// RootName is the copy of the newest root in a repository: the one file that goes
// into images.
const RootName = "root.json"

// InitSpec is what a new repository is to say.
type InitSpec struct {
	Dir                           string // made when missing
	Root                          []Key  // those with a private half sign
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
	ID            string    `json:"repository"` // random; every file of the repository bears it
	Files         []string  `json:"files"`      // paths
	Roles         []string  `json:"roles"`      // delegated roles
	IPNS          string    `json:"ipns"`
	Prefix        string    `json:"dht_prefix"`
	Missing       int       `json:"signatures_missing"` // root signatures to Add before the root is valid
	Expires       time.Time `json:"expires"`            // of the root
	TargetsExpire time.Time `json:"targets_expire"`     // of the delegations
}

// Init writes 1.root.json, 1.targets.json and root.json, signed by the root keys that
// are here. Root keys of which only the public half is given sign later, with Add. An
// existing repository is left alone and the error wraps fs.ErrExist; what cannot be
// said in a repository wraps fs.ErrInvalid.
func Init(ctx context.Context, s InitSpec) (InitResult, error) {
	if err := s.check(); err != nil {
		return InitResult{}, err
	}
	name, err := IPNSName(s.IPNS)
	if err != nil {
		return InitResult{}, err
	}
	if s.DHTPrefix == "" {
		s.DHTPrefix = "/phaseboot/" + name
	}
	id := manifest.NewRepositoryID()
	root, err := manifest.NewRoot(s.rootSpec(name, id))
	if err != nil {
		return InitResult{}, invalid("root: %v", err)
	}
	delegations, roles, err := s.delegations()
	if err != nil {
		return InitResult{}, err
	}
	targets, err := manifest.NewTargets(1, s.Now.Add(s.TargetsLifetime), delegations...)
	if err != nil {
		return InitResult{}, invalid("targets: %v", err)
	}
	manifest.SetRepository(targets, id)
	signed, err := signBoth(s.Root, root, targets)
	if err != nil {
		return InitResult{}, err
	}
	files, err := writeRepository(ctx, s.Dir, root, targets)
	if err != nil {
		return InitResult{}, err
	}
	return InitResult{
		Dir: s.Dir, ID: id, Files: files, Roles: roles, IPNS: name, Prefix: s.DHTPrefix,
		Missing: max(0, s.RootThreshold-signed), Expires: root.Signed.Expires, TargetsExpire: targets.Signed.Expires,
	}, nil
}

// check refuses what no repository should say, in the words of the command line.
func (s InitSpec) check() error {
	publics := make([]ed25519.PublicKey, 0, len(s.Root))
	for _, k := range s.Root {
		publics = append(publics, k.public)
	}
	held := publisherKeys{[]ed25519.PublicKey{s.Online}, []ed25519.PublicKey{s.IPNS}}
	if err := checkOwners("root", publics, s.RootThreshold, held); err != nil {
		return err
	}
	if err := checkOwners("release", s.Release, s.ReleaseThreshold, held); err != nil {
		return err
	}
	if err := held.check(); err != nil {
		return err
	}
	if len(s.Channels) == 0 || len(s.Archs) == 0 {
		return invalid("no channel or no architecture")
	}
	return nil
}

// publisherKeys are those that a publisher holds, and so a thief who breaks into it.
type publisherKeys struct{ online, ipns []ed25519.PublicKey }

func (p publisherKeys) check() error {
	for _, key := range p.online {
		if contains(p.ipns, key) {
			return invalid("the IPNS key is also the online key; replacing one would replace the other: make another")
		}
	}
	return nil
}

// checkOwners refuses keys and a threshold that may not stand for a role.
func checkOwners(what string, keys []ed25519.PublicKey, threshold int, held publisherKeys) error {
	if threshold < 1 || threshold > len(keys) {
		return invalid("%s threshold %d: there are %d %s keys; it must be 1 to that many",
			what, threshold, len(keys), what)
	}
	for i, key := range keys {
		switch {
		case contains(keys[:i], key):
			return invalid("%s key %d is there twice; each counts once", what, i+1)
		case contains(held.online, key):
			return invalid("the online key is also a %s key; a stolen publisher would then sign releases: make another", what)
		case contains(held.ipns, key):
			return invalid("the IPNS key is also a %s key; a stolen publisher would then sign releases: make another", what)
		}
	}
	return nil
}

func contains(keys []ed25519.PublicKey, key ed25519.PublicKey) bool {
	for _, k := range keys {
		if k.Equal(key) {
			return true
		}
	}
	return false
}

func (s InitSpec) rootSpec(ipns, id string) manifest.RootSpec {
	spec := manifest.RootSpec{
		Version: 1, Threshold: s.RootThreshold, Online: []ed25519.PublicKey{s.Online},
		Expires: s.Now.Add(s.RootLifetime), Repository: id,
		Discovery: manifest.Discovery{
			IPNS: []string{ipns}, HTTPS: s.HTTPS, DHTPrefix: s.DHTPrefix, Bootstrap: s.Bootstrap,
		},
	}
	for _, k := range s.Root {
		spec.Root = append(spec.Root, k.public)
	}
	return spec
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

// roleName is manifest.RoleName for names that a person typed.
func roleName(channel, arch string) (string, error) {
	if err := bootfile.CheckArch(arch); err != nil {
		return "", err
	}
	role, err := manifest.RoleName(channel, arch)
	if err != nil {
		return "", invalid("%v", err)
	}
	return role, nil
}

// signBoth signs root and targets by every key that has a private half, and returns
// how many there were.
func signBoth(keys []Key, root *metadata.Metadata[metadata.RootType], targets *metadata.Metadata[metadata.TargetsType]) (int, error) {
	n := 0
	for _, k := range keys {
		if k.signer == nil {
			continue
		}
		if _, err := manifest.Sign(root, k.signer); err != nil {
			return n, fmt.Errorf("key %s: %w", k.name, err)
		}
		if _, err := manifest.Sign(targets, k.signer); err != nil {
			return n, fmt.Errorf("key %s: %w", k.name, err)
		}
		n++
	}
	return n, nil
}

// writeRepository writes all files or none, root.json last.
func writeRepository(ctx context.Context, dir string, root *metadata.Metadata[metadata.RootType], targets *metadata.Metadata[metadata.TargetsType]) (paths []string, err error) {
	rootData, err := manifest.Bytes(manifest.KindRoot, root)
	if err != nil {
		return nil, err
	}
	targetsData, err := manifest.Bytes(manifest.KindTargets, targets)
	if err != nil {
		return nil, err
	}
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
	}{{manifest.FileName("root", 1), rootData}, {manifest.FileName("targets", 1), targetsData}, {RootName, rootData}} {
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

// makeDir makes a folder and reports whether it was not there before.
func makeDir(dir string) (made bool, err error) {
	info, err := os.Stat(dir)
	made = errors.Is(err, fs.ErrNotExist)
	if err == nil && !info.IsDir() {
		return false, invalid("repository %s: is a file; name a folder", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, fmt.Errorf("repository: %w", err)
	}
	return made, nil
}

// undo removes what a failed Init made; the error that led here is the one to report.
func undo(paths []string, dir string, made bool) {
	for _, path := range paths {
		_ = os.Remove(path)
	}
	if made {
		_ = os.Remove(dir)
	}
}

// IPNSName is the IPNS name of a key: the CIDv1 of its libp2p peer ID in base36,
// k51… (IPNS record specification, "IPNS Name").
func IPNSName(public ed25519.PublicKey) (string, error) {
	key, err := libp2p.UnmarshalEd25519PublicKey(public)
	if err != nil {
		return "", fmt.Errorf("IPNS name: %w", err)
	}
	id, err := peer.IDFromPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("IPNS name: %w", err)
	}
	return peer.ToCid(id).StringOfBase(multibase.Base36)
}

// Words tells a person what Init made.
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
