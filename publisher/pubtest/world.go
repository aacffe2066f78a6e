package pubtest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/ipnsname"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/ingest"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

// Day is 24 hours.
const Day = 24 * time.Hour

// A World is a folder with a repository, its keys, artifacts and room for a store.
type World struct {
	T       *testing.T
	Dir     string
	Signing time.Time // when releases are signed; now when zero
	Expires time.Time // when they expire; in 30 days when zero
	Channel string    // of the releases; stable when ""
	HTTPS   []string  // web mirrors of the next root
	Names   []string  // IPNS names of the next root; that of IPNS when nil

	// Change, if not nil, changes each release before it is signed.
	Change func(*manifest.Release)

	Root, Release, Online, IPNS ed25519.PrivateKey
}

// NewKey makes a key.
func NewKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	Check(t, err)
	return key
}

// Public is the public key of a private one.
func Public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// Publics is Public as a list.
func Publics(key ed25519.PrivateKey) []ed25519.PublicKey { return []ed25519.PublicKey{Public(key)} }

// Check fails the test on an error.
func Check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// New makes a repository with the channel stable, four artifacts, and no release.
func New(t *testing.T) *World {
	t.Helper()
	w := &World{T: t, Dir: t.TempDir(), Root: NewKey(t), Release: NewKey(t), Online: NewKey(t), IPNS: NewKey(t)}
	Check(t, os.MkdirAll(w.Repo(), 0o755))
	until := time.Now().Add(365 * Day)
	root, err := manifest.NewRoot(w.rootSpec(0, until))
	Check(t, err)
	w.Write("repo/1.root.json", Seal(t, manifest.KindRoot, root, w.Root))
	w.writeTargets(1, until, "stable")
	for role, size := range map[string]int{"kernel": 300_000, "initramfs": 70_000, "rootfs": 3_000_000, "job/hello.wasm": 100} {
		b := make([]byte, size)
		rand.Read(b)
		w.Write("artifacts/"+role, b)
	}
	return w
}

func (w *World) rootSpec(version int64, expires time.Time) manifest.RootSpec {
	names := w.Names
	if names == nil {
		names = []string{w.Name()}
	}
	return manifest.RootSpec{
		Version: version, Root: Publics(w.Root), Threshold: 1, Online: Publics(w.Online),
		Discovery: manifest.Discovery{IPNS: names, HTTPS: w.HTTPS, DHTPrefix: "/phaseboot/" + w.Name()}, Expires: expires,
	}
}

func (w *World) writeTargets(version int64, expires time.Time, channels ...string) []byte {
	w.T.Helper()
	var delegations []manifest.Delegation
	for _, c := range channels {
		delegations = append(delegations, manifest.Delegation{Channel: c, Arch: "x86_64", Keys: Publics(w.Release), Threshold: 1})
	}
	targets, err := manifest.NewTargets(version, expires, delegations...)
	Check(w.T, err)
	data := Seal(w.T, manifest.KindTargets, targets, w.Root)
	w.Write(fmt.Sprintf("repo/%d.targets.json", version), data)
	return data
}

// Seal signs metadata and returns its file.
func Seal[T metadata.Roles](t *testing.T, kind manifest.Kind, m *metadata.Metadata[T], keys ...ed25519.PrivateKey) []byte {
	t.Helper()
	for _, key := range keys {
		_, err := manifest.Sign(m, Signer(t, key))
		Check(t, err)
	}
	data, err := manifest.Bytes(kind, m)
	Check(t, err)
	return data
}

// Signer signs with a key.
func Signer(t *testing.T, key ed25519.PrivateKey) signature.Signer {
	t.Helper()
	s, err := signature.LoadED25519Signer(key)
	Check(t, err)
	return s
}

// Name is the IPNS name of the repository.
func (w *World) Name() string {
	w.T.Helper()
	name, err := ipnsname.Of(Public(w.IPNS))
	Check(w.T, err)
	return name
}

// NextRoot writes a root that lists the keys as they are now, signed by the given ones.
func (w *World) NextRoot(version int64, by ...ed25519.PrivateKey) {
	w.T.Helper()
	root, err := manifest.NewRoot(w.rootSpec(version, time.Now().Add(10*Day)))
	Check(w.T, err)
	w.Write(fmt.Sprintf("repo/%d.root.json", version), Seal(w.T, manifest.KindRoot, root, by...))
}

// NextTargets writes targets that delegate stable to the release key.
func (w *World) NextTargets(version int64) {
	w.T.Helper()
	w.writeTargets(version, time.Now().Add(10*Day), "stable")
}

// Publish replaces the repository by one with the given channels, each with a release. A file
// is valid for 400 days, or as long as lives says for its role.
func (w *World) Publish(start time.Time, lives map[string]time.Duration, channels ...string) {
	w.T.Helper()
	end := func(role string) time.Time {
		if life, ok := lives[role]; ok {
			return start.Add(life)
		}
		return start.Add(400 * Day)
	}
	root, err := manifest.NewRoot(w.rootSpec(0, end("root")))
	Check(w.T, err)
	w.Write("repo/1.root.json", Seal(w.T, manifest.KindRoot, root, w.Root))
	files := []manifest.File{{Role: "targets", Version: 1, Data: w.writeTargets(1, end("targets"), channels...)}}
	w.Signing = start
	for _, c := range channels {
		w.Channel, w.Expires = c, end(c+"-x86_64")
		release := w.Sign(1, "v1", w.Release)
		w.Add(release)
		files = append(files, manifest.File{Role: c + "-x86_64", Version: 1, Data: release})
	}
	w.Restamp(1, start, end("snapshot"), end("timestamp"), files)
}

// Restamp replaces snapshot and timestamp by ones with this version and these dates.
func (w *World) Restamp(version int64, signed, snapshotEnd, timestampEnd time.Time, files []manifest.File) {
	w.T.Helper()
	snapshot, err := manifest.NewSnapshot(nil, snapshotEnd, files...)
	Check(w.T, err)
	snapshot.Signed.Version = version
	data := Seal(w.T, manifest.KindSnapshot, snapshot, w.Online)
	w.Write(fmt.Sprintf("repo/%d.snapshot.json", version), data)
	timestamp, err := manifest.NewTimestamp(nil, manifest.File{Role: "snapshot", Version: version, Data: data}, signed, timestampEnd)
	Check(w.T, err)
	timestamp.Signed.Version = version
	w.Write("repo/timestamp.json", Seal(w.T, manifest.KindTimestamp, timestamp, w.Online))
}

// Path is the path of a file of the folder.
func (w *World) Path(name string) string { return filepath.Join(w.Dir, name) }

// Repo is the path of the repository.
func (w *World) Repo() string { return w.Path("repo") }

// Write writes a file of the folder.
func (w *World) Write(name string, data []byte) {
	w.T.Helper()
	Check(w.T, os.MkdirAll(filepath.Dir(w.Path(name)), 0o755))
	Check(w.T, os.WriteFile(w.Path(name), data, 0o644))
}

// Read reads a file of the folder.
func (w *World) Read(name string) []byte {
	w.T.Helper()
	data, err := os.ReadFile(w.Path(name))
	Check(w.T, err)
	return data
}

// Sign returns a manifest of the artifacts as they are now.
func (w *World) Sign(number int64, version string, key ed25519.PrivateKey) []byte {
	w.T.Helper()
	at := w.Signing
	if at.IsZero() {
		at = time.Now()
	}
	channel, expires := w.Channel, w.Expires
	if channel == "" {
		channel = "stable"
	}
	if expires.IsZero() {
		expires = time.Now().Add(30 * Day)
	}
	r := manifest.Release{
		Channel: channel, Arch: "x86_64", Version: version, Number: number, Cmdline: "console=ttyS0", Job: "job/hello.wasm",
		SignedAt: at.UTC().Truncate(time.Second), Expires: expires.UTC().Truncate(time.Second),
	}
	for _, role := range []string{"initramfs", "job/hello.wasm", "kernel", "rootfs"} {
		data := w.Read("artifacts/" + role)
		f, err := cas.FileCID(w.T.Context(), bytes.NewReader(data), cas.DefaultChunker)
		Check(w.T, err)
		sum := sha256.Sum256(data)
		r.Artifacts = append(r.Artifacts, manifest.Artifact{
			Role: role, Length: f.Size, SHA256: hex.EncodeToString(sum[:]), CID: f.CID, Chunker: cas.DefaultChunker,
		})
	}
	if w.Change != nil {
		w.Change(&r)
	}
	role, err := manifest.Encode(r)
	Check(w.T, err)
	return Seal(w.T, manifest.KindRole, role, key)
}

// OnlineKey is the online key as publishers take it.
func (w *World) OnlineKey() repo.OnlineKey {
	return repo.OnlineKey{Signer: Signer(w.T, w.Online), Public: Public(w.Online)}
}

// AddOptions are those of Add.
func (w *World) AddOptions(release []byte) ingest.Options {
	return ingest.Options{Store: w.Path("store"), Repo: w.Repo(), Artifacts: w.Path("artifacts"), Manifest: release, Online: w.OnlineKey()}
}

// Add publishes a release.
func (w *World) Add(release []byte) ingest.Added {
	w.T.Helper()
	a, err := ingest.Add(w.T.Context(), w.AddOptions(release))
	Check(w.T, err)
	return a
}

// Next publishes a release with a new root filesystem.
func (w *World) Next(number int64, version string) ingest.Added {
	w.T.Helper()
	w.Write("artifacts/rootfs", bytes.Repeat([]byte(version), 100_000))
	return w.Add(w.Sign(number, version, w.Release))
}

// ReadPointer reads the pointer of a repository's folder.
func ReadPointer(ctx context.Context, dir string) (*repo.Pointer, error) {
	r, err := repo.Open(ctx, dir)
	if err != nil {
		return nil, err
	}
	return r.ReadPointer(ctx)
}

// Verify verifies the channel stable as a machine does.
func (w *World) Verify(f manifest.Fetcher) *manifest.Verified {
	w.T.Helper()
	return w.VerifyAt(f, time.Now())
}

// VerifyAt is Verify of a machine with another clock.
func (w *World) VerifyAt(f manifest.Fetcher, now time.Time) *manifest.Verified {
	w.T.Helper()
	v, err := manifest.Verify(w.T.Context(), f, manifest.Policy{Root: w.Read("repo/1.root.json"), Channel: "stable", Arch: "x86_64", Now: now})
	Check(w.T, err)
	return v
}

// A Machine keeps the state of what it has verified.
type Machine struct {
	w      *World
	policy manifest.Policy
}

// Machine makes a machine with a clock and a lower bound of time.
func (w *World) Machine(clock, floor time.Time) Machine {
	w.T.Helper()
	state, err := manifest.OpenState(w.T.TempDir())
	Check(w.T, err)
	return Machine{w, manifest.Policy{Root: w.Read("repo/1.root.json"), Channel: "stable", Arch: "x86_64", State: state, Now: clock, Floor: floor}}
}

// Boots verifies the repository and expects a release.
func (m Machine) Boots(want string) {
	m.w.T.Helper()
	v, err := manifest.Verify(m.w.T.Context(), manifest.DirFetcher(m.w.Repo()), m.policy)
	if err != nil || v.Release().Version != want {
		m.w.T.Errorf("machine with the clock %s: %v, want release %s", m.policy.Now, err, want)
	}
}

// FilesOf returns every file below a folder, to compare before and after.
func FilesOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == ".lock" {
			return err
		}
		data, err := os.ReadFile(path)
		out[path] = string(data)
		return err
	})
	Check(t, err)
	return out
}

// Unchanged fails the test when two results of FilesOf differ.
func Unchanged(t *testing.T, before, after map[string]string) {
	t.Helper()
	if !maps.Equal(before, after) {
		t.Errorf("files changed")
	}
}

// A Folder reads metadata from a metadata folder, as a booting machine does.
type Folder struct {
	Source cas.Source
	CID    string
}

// Metadata implements manifest.Fetcher.
func (f Folder) Metadata(ctx context.Context, name string, max int64) ([]byte, error) {
	c, err := cas.ParseCID(f.CID)
	if err != nil {
		return nil, err
	}
	entries, err := cas.ReadDir(ctx, f.Source, c)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Name == name {
			return cas.ReadFile(ctx, f.Source, e.CID, max)
		}
	}
	return nil, fs.ErrNotExist
}

// Canceled is a context that has ended.
func Canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
