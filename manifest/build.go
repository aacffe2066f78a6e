package manifest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// The functions in this file make unsigned metadata from public keys. Sign adds a signature with
// a signer of the caller.

// RootSpec is the content of a root.json.
type RootSpec struct {
	Version    int64               // 1 when 0
	Root       []ed25519.PublicKey // sign root.json and targets.json
	Threshold  int                 // of Root
	Online     []ed25519.PublicKey // sign snapshot.json and timestamp.json, any one of them
	Discovery  Discovery
	Repository string    // repository ID: a NewRepositoryID for version 1, later the one of the root before
	Expires    time.Time // cut to whole seconds
}

// NewRoot builds a root.json. Content that Lint refuses (no keys, a threshold above the number of
// keys, a malformed discovery entry) wraps ErrMalformed.
func NewRoot(s RootSpec) (*metadata.Metadata[metadata.RootType], error) {
	root := metadata.Root(s.Expires.UTC().Truncate(time.Second))
	root.Signed.Version = max(s.Version, 1)
	fields := s.Discovery.fields()
	if s.Repository != "" {
		fields[repositoryField] = s.Repository
	}
	root.Signed.UnrecognizedFields = object{extension: fields}
	for role, keys := range map[string][]ed25519.PublicKey{
		roleRoot: s.Root, roleTargets: s.Root, roleSnapshot: s.Online, roleTimestamp: s.Online,
	} {
		for _, public := range keys {
			key, _, err := tufKey(public)
			if err != nil {
				return nil, err
			}
			if err := root.Signed.AddKey(key, role); err != nil {
				return nil, err
			}
		}
	}
	root.Signed.Roles[roleRoot].Threshold = s.Threshold
	root.Signed.Roles[roleTargets].Threshold = s.Threshold
	return reparse(KindRoot, root)
}

// A Delegation lists the keys that may sign the releases of one channel and architecture or, if Channel is ConfigRole
// and Arch is "", the settings of machines.
type Delegation struct {
	Channel, Arch string
	Keys          []ed25519.PublicKey
	Threshold     int
}

// IsConfig reports whether the delegation is that of the settings of machines.
func (d Delegation) IsConfig() bool { return d.Channel == ConfigRole && d.Arch == "" }

// Role is the name of the delegated role. An error wraps ErrMalformed.
func (d Delegation) Role() (string, error) {
	if d.IsConfig() {
		return ConfigRole, nil
	}
	return RoleName(d.Channel, d.Arch)
}

// paths are CHANNEL/ARCH/*, and CHANNEL/ARCH/dtb/*, job/* and boot/*; those of settings are config/*.
func (d Delegation) paths() []string {
	if d.IsConfig() {
		return []string{configPaths}
	}
	prefix := targetPath(d.Channel, d.Arch, "")
	return []string{prefix + "*", prefix + "dtb/*", prefix + "job/*", prefix + "boot/*"}
}

// NewTargets builds the top-level targets.json with one role for each delegation.
func NewTargets(version int64, expires time.Time, delegations ...Delegation) (*metadata.Metadata[metadata.TargetsType], error) {
	targets := metadata.Targets(expires.UTC().Truncate(time.Second))
	targets.Signed.Version = version
	d := &metadata.Delegations{Keys: map[string]*metadata.Key{}, Roles: []metadata.DelegatedRole{}}
	for _, spec := range delegations {
		name, err := spec.Role()
		if err != nil {
			return nil, err
		}
		role := metadata.DelegatedRole{Name: name, Threshold: spec.Threshold, Terminating: true, KeyIDs: []string{}, Paths: spec.paths()}
		for _, public := range spec.Keys {
			key, id, err := tufKey(public)
			if err != nil {
				return nil, err
			}
			d.Keys[id] = key
			role.KeyIDs = append(role.KeyIDs, id)
		}
		d.Roles = append(d.Roles, role)
	}
	targets.Signed.Delegations = d
	return reparse(KindTargets, targets)
}

// A File is a metadata file that a snapshot or a timestamp will name: its role without version or
// suffix ("targets", "stable-x86_64"), its version, and its bytes.
type File struct {
	Role    string
	Version int64
	Data    []byte
}

func (f File) meta() *metadata.MetaFiles {
	sum := sha256.Sum256(f.Data)
	return &metadata.MetaFiles{
		Version: f.Version, Length: int64(len(f.Data)),
		Hashes: metadata.Hashes{"sha256": sum[:]},
	}
}

// NewSnapshot builds the snapshot that follows prev (nil for the first). It names the files of
// prev, with the given files added or replaced.
func NewSnapshot(prev *metadata.Metadata[metadata.SnapshotType], expires time.Time, files ...File) (*metadata.Metadata[metadata.SnapshotType], error) {
	next := metadata.Snapshot(expires.UTC().Truncate(time.Second))
	next.Signed.Meta = map[string]*metadata.MetaFiles{}
	if prev != nil {
		next.Signed.Version = prev.Signed.Version + 1
		for name, meta := range prev.Signed.Meta {
			next.Signed.Meta[name] = meta
		}
	}
	for _, f := range files {
		next.Signed.Meta[f.Role+".json"] = f.meta()
	}
	return reparse(KindSnapshot, next)
}

// NewTimestamp builds the timestamp that follows prev (nil for the first) and names a snapshot
// file. signedAt, which moves the reference time of machines forward, must not be after expires.
func NewTimestamp(prev *metadata.Metadata[metadata.TimestampType], snapshot File, signedAt, expires time.Time) (*metadata.Metadata[metadata.TimestampType], error) {
	next := metadata.Timestamp(expires.UTC().Truncate(time.Second))
	if prev != nil {
		next.Signed.Version = prev.Signed.Version + 1
	}
	next.Signed.Meta = map[string]*metadata.MetaFiles{"snapshot.json": snapshot.meta()}
	next.Signed.UnrecognizedFields = map[string]any{
		extension: map[string]string{"signed_at": signedAt.UTC().Format(timeLayout)},
	}
	return reparse(KindTimestamp, next)
}

// Sign adds a signature by signer, in place of an older one by the same key, and returns the key
// ID. Lint accepts Ed25519 keys only.
func Sign[T metadata.Roles](m *metadata.Metadata[T], signer signature.Signer) (keyID string, err error) {
	old := m.Signatures
	m.Signatures = []metadata.Signature{}
	sig, err := m.Sign(signer)
	if err != nil {
		m.Signatures = old
		return "", err
	}
	m.Signatures = replaceSignature(old, *sig)
	return sig.KeyID, nil
}

// replaceSignature returns a list with a signature in place of an older one by the same key.
func replaceSignature(list []metadata.Signature, sig metadata.Signature) []metadata.Signature {
	others := slices.DeleteFunc(slices.Clone(list), func(s metadata.Signature) bool { return s.KeyID == sig.KeyID })
	return append(others, sig)
}

// KeyID is the TUF key ID of an Ed25519 public key, 64 hex digits.
func KeyID(public ed25519.PublicKey) string { return keyID(hex.EncodeToString(public)) }

func tufKey(public ed25519.PublicKey) (*metadata.Key, string, error) {
	if len(public) != ed25519.PublicKeySize {
		return nil, "", malformed("public key: %d bytes, an Ed25519 key has %d", len(public), ed25519.PublicKeySize)
	}
	key, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		return nil, "", err
	}
	id, err := key.ID()
	return key, id, err
}

// reparse returns built metadata as a reader of its bytes gets them.
func reparse[T metadata.Roles](kind Kind, m *metadata.Metadata[T]) (*metadata.Metadata[T], error) {
	data, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return Parse[T](kind, data)
}
