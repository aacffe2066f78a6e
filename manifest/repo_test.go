package manifest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/cas"
)

// today is the clock of the tests.
var today = time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)

const (
	day        = 24 * time.Hour
	production = "0f1e2d3c4b5a69788796a5b4c3d2e1f0" // a repository ID
	ipnsName   = "k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8"
)

// key returns the Ed25519 key of a name, always the same one.
func key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(names ...string) []ed25519.PublicKey {
	var list []ed25519.PublicKey
	for _, n := range names {
		list = append(list, key(n).Public().(ed25519.PublicKey))
	}
	return list
}

// files is a metadata directory in memory.
type files map[string][]byte

func (f files) Metadata(_ context.Context, name string, max int64) ([]byte, error) {
	data, ok := f[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return data[:min(int64(len(data)), max)], nil
}

// repo makes a repository with real keys, as a signer and a publisher do. Its fields are the
// content of the next file.
type repo struct {
	t        testing.TB
	files    files
	root     []byte // the root.json that goes into images
	roots    []string
	online   string
	owners   []string // release keys of stable
	expires  map[string]time.Time
	signedAt time.Time
	snap     *metadata.Metadata[metadata.SnapshotType]
	time     *metadata.Metadata[metadata.TimestampType]
	targets  int64
	rootNo   int64
	numbers  map[string]int64
	more     []Delegation // more than stable and edge
	id       string       // of the repository
}

// newRepo makes a repository with two root keys and two release keys for stable, both with
// threshold 2, one release key for edge, and release 1 of stable.
func newRepo(t testing.TB) *repo { return newRepoOf(t, production) }

// newRepoOf is newRepo with another repository ID and the same keys.
func newRepoOf(t testing.TB, id string) *repo {
	r := &repo{
		t: t, files: files{}, roots: []string{"root-a", "root-b"}, online: "online",
		owners: []string{"release-a", "release-b"}, signedAt: today.Add(-day), numbers: map[string]int64{}, id: id,
		expires: map[string]time.Time{
			roleRoot: today.Add(365 * day), roleTargets: today.Add(180 * day),
			roleSnapshot: today.Add(7 * day), roleTimestamp: today.Add(day), "release": today.Add(30 * day),
		},
	}
	r.newRoot(r.roots...)
	r.root = r.files["1.root.json"]
	r.newTargets()
	r.publish(r.release("stable", "x86_64", "2026.10"))
	return r
}

func (r *repo) newRoot(signers ...string) {
	r.rootNo++
	root, err := NewRoot(RootSpec{
		Version: r.rootNo, Root: public(r.roots...), Threshold: len(r.roots), Online: public(r.online),
		Discovery: golden, Expires: r.expires[roleRoot], Repository: r.id,
	})
	r.ok(err)
	r.files[FileName(roleRoot, r.rootNo)] = sign(r.t, KindRoot, root, signers...)
}

func (r *repo) newTargets() File {
	r.targets++
	targets, err := NewTargets(r.targets, r.expires[roleTargets], append([]Delegation{
		{"stable", "x86_64", public(r.owners...), len(r.owners)},
		{"stable", "arm64", public(r.owners...), len(r.owners)},
		{"edge", "x86_64", public("edge"), 1},
	}, r.more...)...)
	r.ok(err)
	SetRepository(targets, r.id)
	data := sign(r.t, KindTargets, targets, r.roots...)
	r.files[FileName(roleTargets, r.targets)] = data
	return File{roleTargets, r.targets, data}
}

// release signs a release with the channel's keys.
func (r *repo) release(channel, arch, version string) File {
	role := r.manifest(channel, arch, version)
	owners := r.owners
	if channel == "edge" {
		owners = []string{"edge"}
	}
	return r.signed(channel, arch, role, owners...)
}

// manifest is a release without signatures.
func (r *repo) manifest(channel, arch, version string) *metadata.Metadata[metadata.TargetsType] {
	id, err := RoleName(channel, arch)
	r.ok(err)
	r.numbers[id]++
	release := sample(channel, arch, version, r.numbers[id], r.signedAt, r.expires["release"])
	release.Repository = r.id
	role, err := Encode(release)
	r.ok(err)
	return role
}

func (r *repo) signed(channel, arch string, role *metadata.Metadata[metadata.TargetsType], signers ...string) File {
	return File{channel + "-" + arch, role.Signed.Version, sign(r.t, KindRole, role, signers...)}
}

// publish signs a snapshot and a timestamp that name the files.
func (r *repo) publish(list ...File) {
	for _, f := range list {
		r.files[FileName(f.Role, f.Version)] = f.Data
	}
	targets := File{roleTargets, r.targets, r.files[FileName(roleTargets, r.targets)]}
	snap, err := NewSnapshot(r.snap, r.expires[roleSnapshot], append([]File{targets}, list...)...)
	r.ok(err)
	SetRepository(snap, r.id)
	r.snap = snap
	r.files[FileName(roleSnapshot, snap.Signed.Version)] = sign(r.t, KindSnapshot, snap, r.online)
	r.stamp(r.online)
}

// stamp signs a timestamp that names the newest snapshot.
func (r *repo) stamp(signer string) {
	version := r.snap.Signed.Version
	ts, err := NewTimestamp(r.time, File{roleSnapshot, version, r.files[FileName(roleSnapshot, version)]}, r.signedAt, r.expires[roleTimestamp])
	r.ok(err)
	SetRepository(ts, r.id)
	r.time = ts
	r.files["timestamp.json"] = sign(r.t, KindTimestamp, ts, signer)
}

func (r *repo) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// policy is for a machine that boots stable for x86_64. dir is its state, "" for none.
func (r *repo) policy(dir string) Policy {
	p := Policy{Root: r.root, Channel: "stable", Arch: "x86_64", Now: today}
	if dir != "" {
		s, err := OpenState(dir)
		r.ok(err)
		p.State = s
	}
	return p
}

// boot verifies the release and fails the test if it is refused.
func (r *repo) boot(f Fetcher, p Policy) *Verified {
	r.t.Helper()
	v, err := Verify(context.Background(), f, p)
	r.ok(err)
	r.agrees(f, p, v)
	return v
}

func sign[T metadata.Roles](t testing.TB, kind Kind, m *metadata.Metadata[T], signers ...string) []byte {
	t.Helper()
	m.Signatures = nil
	for _, n := range signers {
		s, err := signature.LoadSigner(key(n), crypto.Hash(0))
		if err == nil {
			_, err = Sign(m, s)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if m.Signatures == nil {
		m.Signatures = []metadata.Signature{}
	}
	data, err := Bytes(kind, m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

var golden = Discovery{
	IPNS: []string{ipnsName}, HTTPS: []string{"https://mirror.example/phase"},
	DHTPrefix: "/phaseboot/" + ipnsName, Bootstrap: []string{"/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWExample"},
}

func sample(channel, arch, version string, number int64, signedAt, expires time.Time) Release {
	r := Release{
		Channel: channel, Arch: arch, Version: version, Number: number, Cmdline: "console=ttyS0 quiet",
		MinRAM: 512, SignedAt: signedAt, Expires: expires, Job: "job/hello.wasm",
	}
	for _, role := range []string{"dtb/board.dtb", RoleInitramfs, "job/hello.wasm", RoleKernel, RoleRootfs} {
		content := content(channel, arch, version, role)
		sum := sha256.Sum256(content)
		r.Artifacts = append(r.Artifacts, Artifact{
			Role: role, Length: int64(len(content)), SHA256: hex.EncodeToString(sum[:]),
			CID: cas.Sum(cid.Raw, content), Chunker: "fastcdc-v1.0.0-16384-65536-262144",
		})
	}
	return r
}

// content is the content of an artifact of sample.
func content(channel, arch, version, role string) []byte {
	return []byte(channel + arch + version + role)
}

// without is a directory without some files.
func without(f files, names ...string) files {
	f = maps.Clone(f)
	for _, n := range names {
		delete(f, n)
	}
	return f
}

// with is a directory in which one file is replaced.
func with(f files, name string, data []byte) files {
	f = maps.Clone(f)
	f[name] = bytes.Clone(data)
	return f
}
