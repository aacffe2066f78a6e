package publisher

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

// A world is a repository with its keys, artifacts and an empty place for a store.
type world struct {
	signing                     time.Time // when releases are signed; now when zero
	expires                     time.Time // when they expire; in 30 days when zero
	channel                     string    // of the releases; stable when ""
	t                           *testing.T
	dir                         string
	root, release, online, ipns ed25519.PrivateKey
}

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	return key
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

func publics(key ed25519.PrivateKey) []ed25519.PublicKey { return []ed25519.PublicKey{public(key)} }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), root: newKey(t), release: newKey(t), online: newKey(t), ipns: newKey(t)}
	check(t, os.MkdirAll(w.repo(), 0o755))
	name, err := p2p.Name(public(w.ipns))
	check(t, err)
	until := time.Now().Add(365 * 24 * time.Hour)
	root, err := manifest.NewRoot(manifest.RootSpec{
		Root: publics(w.root), Threshold: 1, Online: publics(w.online),
		Discovery: manifest.Discovery{IPNS: []string{name}, DHTPrefix: "/phaseboot/" + name}, Expires: until,
	})
	check(t, err)
	data, err := seal(manifest.KindRoot, root, signer(t, w.root))
	check(t, err)
	w.write("repo/1.root.json", data)
	targets, err := manifest.NewTargets(1, until, manifest.Delegation{
		Channel: "stable", Arch: "x86_64", Keys: publics(w.release), Threshold: 1,
	})
	check(t, err)
	data, err = seal(manifest.KindTargets, targets, signer(t, w.root))
	check(t, err)
	w.write("repo/1.targets.json", data)
	for role, size := range map[string]int{"kernel": 300_000, "initramfs": 70_000, "rootfs": 3_000_000, "job/hello.wasm": 100} {
		b := make([]byte, size)
		rand.Read(b)
		w.write("artifacts/"+role, b)
	}
	return w
}

func signer(t *testing.T, key ed25519.PrivateKey) signature.Signer {
	t.Helper()
	s, err := signature.LoadED25519Signer(key)
	check(t, err)
	return s
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }
func (w *world) repo() string            { return w.path("repo") }

func (w *world) write(name string, data []byte) {
	w.t.Helper()
	check(w.t, os.MkdirAll(filepath.Dir(w.path(name)), 0o755))
	check(w.t, os.WriteFile(w.path(name), data, 0o644))
}

func (w *world) read(name string) []byte {
	w.t.Helper()
	data, err := os.ReadFile(w.path(name))
	check(w.t, err)
	return data
}

// sign makes the manifest of the artifacts that lie there now.
func (w *world) sign(number int64, version string, key ed25519.PrivateKey) []byte {
	w.t.Helper()
	at := w.signing
	if at.IsZero() {
		at = time.Now()
	}
	channel, expires := w.channel, w.expires
	if channel == "" {
		channel = "stable"
	}
	if expires.IsZero() {
		expires = time.Now().Add(720 * time.Hour)
	}
	r := manifest.Release{
		Channel: channel, Arch: "x86_64", Version: version, Number: number, Cmdline: "console=ttyS0", Job: "job/hello.wasm",
		SignedAt: at.UTC().Truncate(time.Second), Expires: expires.UTC().Truncate(time.Second),
	}
	for _, role := range []string{"initramfs", "job/hello.wasm", "kernel", "rootfs"} {
		data := w.read("artifacts/" + role)
		f, err := cas.FileCID(w.t.Context(), bytes.NewReader(data), cas.DefaultChunker)
		check(w.t, err)
		sum := sha256.Sum256(data)
		r.Artifacts = append(r.Artifacts, manifest.Artifact{
			Role: role, Length: f.Size, SHA256: hex.EncodeToString(sum[:]), CID: f.CID, Chunker: cas.DefaultChunker,
		})
	}
	role, err := manifest.Encode(r)
	check(w.t, err)
	data, err := seal(manifest.KindRole, role, signer(w.t, key))
	check(w.t, err)
	return data
}

func (w *world) onlineKey() Online {
	return Online{Signer: signer(w.t, w.online), Public: public(w.online)}
}

func (w *world) options(release []byte) AddOptions {
	return AddOptions{Store: w.path("store"), Repo: w.repo(), Artifacts: w.path("artifacts"), Manifest: release, Online: w.onlineKey()}
}

func (w *world) add(release []byte) Added {
	w.t.Helper()
	a, err := Add(w.t.Context(), w.options(release))
	check(w.t, err)
	return a
}

// verify does what a machine does.
func (w *world) verify(f manifest.Fetcher) *manifest.Verified {
	w.t.Helper()
	v, err := manifest.Verify(w.t.Context(), f, manifest.Policy{Root: w.read("repo/1.root.json"), Channel: "stable", Arch: "x86_64", Now: time.Now()})
	check(w.t, err)
	return v
}

// snapshotOf returns every file below a folder, to compare before and after.
func snapshotOf(t *testing.T, dir string) map[string]string {
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
	check(t, err)
	return out
}

func unchanged(t *testing.T, before, after map[string]string) {
	t.Helper()
	if !maps.Equal(before, after) {
		t.Errorf("the repository changed")
	}
}

// folder reads metadata from a metadata folder, as a booting machine does.
type folder struct {
	source cas.Source
	head   string
}

func (f folder) Metadata(ctx context.Context, name string, max int64) ([]byte, error) {
	c, err := cas.ParseCID(f.head)
	if err != nil {
		return nil, err
	}
	entries, err := cas.ReadDir(ctx, f.source, c)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Name == name {
			return cas.ReadFile(ctx, f.source, e.CID, max)
		}
	}
	return nil, fs.ErrNotExist
}

func testLog(t *testing.T) *slog.Logger {
	if !testing.Verbose() {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}

func (w *world) statusOptions() StatusOptions {
	return StatusOptions{Store: w.path("store"), Repo: w.repo()}
}
