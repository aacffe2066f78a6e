package bootclient_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/ipnsname"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

// key returns the Ed25519 key of a name.
func key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(name string) []ed25519.PublicKey {
	return []ed25519.PublicKey{key(name).Public().(ed25519.PublicKey)}
}

// content returns pseudo-random bytes for a seed.
func content(seed uint64, n int) []byte {
	var s [32]byte
	s[0], s[1] = byte(seed), byte(seed>>8)
	out := make([]byte, n)
	rand.NewChaCha8(s).Read(out)
	return out
}

// A repo is a signer and a publisher in one, with real keys. Repositories with the same owner
// have the same keys.
type repo struct {
	t         *testing.T
	owner     string // names the keys
	online    string // the online key's name
	releaser  string // the release key's name
	ipns      string
	root      []byte
	targets   manifest.File
	files     map[string][]byte
	store     *cas.Memory
	snap      *metadata.Metadata[metadata.SnapshotType]
	stamp     *metadata.Metadata[metadata.TimestampType]
	number    int64
	expires   time.Duration
	change    func(*manifest.Release) // of each release before it is signed; nil for none
	corrupt   bool                    // the signed sha256 of later releases is wrong
	signed    map[string][]byte       // artifacts of the newest release by role
	cids      map[string]cid.Cid
	directory cid.Cid
	record    []byte
}

// newRepo makes a repository and its first release. All owners have the same IPNS key, as if
// an attacker had stolen it.
func newRepo(t *testing.T, owner string, discovery manifest.Discovery) *repo {
	t.Helper()
	name, err := ipnsname.Of(public("ipns")[0])
	ok(t, err)
	discovery.IPNS = append(discovery.IPNS, name)
	r := &repo{t: t, owner: owner, online: owner + "-online", releaser: owner + "-release", ipns: name, files: map[string][]byte{}, store: cas.NewMemory(), expires: 24 * time.Hour}
	root, err := manifest.NewRoot(manifest.RootSpec{
		Root: public(owner), Threshold: 1, Online: public(owner + "-online"), Discovery: discovery, Expires: time.Now().Add(1000 * time.Hour),
	})
	ok(t, err)
	r.root = sign(t, root, owner)
	r.files["1.root.json"] = r.root
	targets, err := manifest.NewTargets(1, time.Now().Add(900*time.Hour),
		manifest.Delegation{Channel: "stable", Arch: "x86_64", Keys: public(owner + "-release"), Threshold: 1})
	ok(t, err)
	r.targets = manifest.File{Role: "targets", Version: 1, Data: sign(t, targets, owner)}
	r.files["1.targets.json"] = r.targets.Data
	r.release("1", map[string][]byte{
		"kernel": content(1, 300<<10), "initramfs": content(2, 700<<10), "rootfs": content(3, 4<<20+12345), "job/hello.wasm": content(4, 5000),
	})
	return r
}

// release signs, stores and publishes a release.
func (r *repo) release(version string, artifacts map[string][]byte) {
	r.t.Helper()
	ctx := context.Background()
	r.number++
	r.signed, r.cids = artifacts, map[string]cid.Cid{}
	rel := manifest.Release{
		Channel: "stable", Arch: "x86_64", Version: version, Number: r.number, Cmdline: "quiet console=ttyS0",
		SignedAt: time.Now().Add(-time.Minute), Expires: time.Now().Add(r.expires),
	}
	for _, role := range slices.Sorted(maps.Keys(artifacts)) {
		data := artifacts[role]
		f, err := cas.AddFile(ctx, r.store.Put, bytes.NewReader(data), cas.DefaultChunker)
		ok(r.t, err)
		sum := sha256.Sum256(data)
		if r.corrupt {
			sum[0]++
		}
		r.cids[role] = f.CID
		rel.Artifacts = append(rel.Artifacts, manifest.Artifact{
			Role: role, Length: f.Size, SHA256: hex.EncodeToString(sum[:]), CID: f.CID, Chunker: cas.DefaultChunker,
		})
	}
	if r.change != nil {
		r.change(&rel)
	}
	role, err := manifest.Encode(rel)
	ok(r.t, err)
	r.publish(manifest.File{Role: "stable-x86_64", Version: r.number, Data: sign(r.t, role, r.releaser)})
}

// publish makes a new snapshot, timestamp, metadata directory and record.
func (r *repo) publish(role manifest.File) {
	r.t.Helper()
	var err error
	r.files[manifest.FileName(role.Role, role.Version)] = role.Data
	r.snap, err = manifest.NewSnapshot(r.snap, time.Now().Add(500*time.Hour), r.targets, role)
	ok(r.t, err)
	snap := sign(r.t, r.snap, r.online)
	r.files[manifest.FileName("snapshot", r.snap.Signed.Version)] = snap
	r.restamp(snap, 100*time.Hour)
}

func (r *repo) restamp(snap []byte, life time.Duration) {
	r.t.Helper()
	var err error
	r.stamp, err = manifest.NewTimestamp(r.stamp, manifest.File{Role: "snapshot", Version: r.snap.Signed.Version, Data: snap}, time.Now().Add(-time.Minute), time.Now().Add(life))
	ok(r.t, err)
	r.files["timestamp.json"] = sign(r.t, r.stamp, r.online)
	r.point()
}

// point stores the metadata directory and makes a record of it.
func (r *repo) point() {
	r.t.Helper()
	ctx := context.Background()
	var entries []cas.Link
	for name, data := range r.files {
		f, err := cas.AddFile(ctx, r.store.Put, bytes.NewReader(data), "size-1048576")
		ok(r.t, err)
		entries = append(entries, cas.Link{Name: name, CID: f.CID, Tsize: uint64(f.Size)})
	}
	var err error
	r.directory, err = cas.AddDir(ctx, r.store.Put, entries)
	ok(r.t, err)
	r.record, err = p2p.NewRecord(key("ipns"), r.directory, uint64(r.stamp.Signed.Version), time.Now().Add(48*time.Hour), time.Minute)
	ok(r.t, err)
}

// replaceOnline makes root 2, which names another online key, and signs again with it.
func (r *repo) replaceOnline(discovery manifest.Discovery) {
	r.t.Helper()
	r.online = r.owner + "-online-2"
	root, err := manifest.NewRoot(manifest.RootSpec{
		Version: 2, Root: public(r.owner), Threshold: 1, Online: public(r.online), Discovery: discovery, Expires: time.Now().Add(1000 * time.Hour),
	})
	ok(r.t, err)
	r.files["2.root.json"] = sign(r.t, root, r.owner)
	r.publish(manifest.File{Role: "stable-x86_64", Version: r.number, Data: r.files[manifest.FileName("stable-x86_64", r.number)]})
}

// replaceReleaser makes targets 2, which names another release key for the next releases.
func (r *repo) replaceReleaser() {
	r.t.Helper()
	r.releaser = r.owner + "-release-2"
	targets, err := manifest.NewTargets(2, time.Now().Add(900*time.Hour),
		manifest.Delegation{Channel: "stable", Arch: "x86_64", Keys: public(r.releaser), Threshold: 1})
	ok(r.t, err)
	r.targets = manifest.File{Role: "targets", Version: 2, Data: sign(r.t, targets, r.owner)}
	r.files["2.targets.json"] = r.targets.Data
}

// leaves counts the leaves of an artifact.
func (r *repo) leaves(role string) int {
	list, err := cas.Leaves(context.Background(), r.store, r.cids[role], int64(len(r.signed[role])))
	ok(r.t, err)
	return len(list)
}

// frozen is a copy of the repository that gets no newer release.
func (r *repo) frozen() *repo {
	c := *r
	return &c
}

func sign[T metadata.Roles](t *testing.T, m *metadata.Metadata[T], signer string) []byte {
	t.Helper()
	s, err := signature.LoadSigner(key(signer), crypto.Hash(0))
	ok(t, err)
	_, err = manifest.Sign(m, s)
	ok(t, err)
	data, err := m.ToBytes(true)
	ok(t, err)
	return data
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
