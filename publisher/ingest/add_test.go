package ingest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/ingest"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/store"
)

func TestAddPublishesWhatWasSigned(t *testing.T) {
	w := pubtest.New(t)
	added := w.Add(w.Sign(1, "v1", w.Release))
	if added.NewBytes < 3_370_100 || added.KnownBytes != 0 || added.Timestamp != 1 || added.Unchanged {
		t.Errorf("got %+v", added)
	}
	v := w.Verify(manifest.DirFetcher(w.Repo()))
	if v.Release().Version != "v1" || v.TimestampVersion() != 1 {
		t.Errorf("verified %q at timestamp %d", v.Release().Version, v.TimestampVersion())
	}
	packs, err := store.Open(t.Context(), w.Path("store"), nil)
	pubtest.Check(t, err)
	defer packs.Close()
	for _, a := range v.Release().Artifacts {
		var got bytes.Buffer
		pubtest.Check(t, cas.Copy(t.Context(), &got, packs, a.CID, a.Length))
		if !bytes.Equal(got.Bytes(), w.Read("artifacts/"+a.Role)) {
			t.Errorf("%s in the store is not the file", a.Role)
		}
	}
}

func TestTheNextReleaseSharesItsBlocks(t *testing.T) {
	w := pubtest.New(t)
	rootfs := make([]byte, 3_000_000)
	rand.NewChaCha8([32]byte{}).Read(rootfs) // the same in each run: how soon the cuts agree again depends on the bytes
	w.Write("artifacts/rootfs", rootfs)
	w.Add(w.Sign(1, "v1", w.Release))
	w.Write("artifacts/rootfs", append(bytes.Clone(rootfs[:1_000_000]), append([]byte("an insertion"), rootfs[1_000_000:]...)...))
	added := w.Add(w.Sign(2, "v2", w.Release))
	if added.NewBytes > 600_000 || added.KnownBytes < 2_500_000 || added.Timestamp != 2 || added.Snapshot != 2 {
		t.Errorf("got %+v", added)
	}
	if got := w.Verify(manifest.DirFetcher(w.Repo())).Release().Version; got != "v2" {
		t.Errorf("the folder is %q", got)
	}
}

func TestAddingTheSameManifestAgainChangesNothing(t *testing.T) {
	w := pubtest.New(t)
	release := w.Sign(1, "v1", w.Release)
	first := w.Add(release)
	before := pubtest.FilesOf(t, w.Repo())
	again := w.Add(release)
	if !again.Unchanged || again.Pointer != first.Pointer || again.NewBlocks != 0 {
		t.Errorf("got %+v", again)
	}
	pubtest.Unchanged(t, before, pubtest.FilesOf(t, w.Repo()))

	opts := w.AddOptions(release)
	opts.Now = func() time.Time { return time.Now().Add(20 * time.Hour) } // the timestamp is getting old
	renewed, err := ingest.Add(t.Context(), opts)
	if err != nil || !renewed.Unchanged || renewed.Timestamp != 2 || renewed.Snapshot != 1 {
		t.Errorf("got %+v, %v", renewed, err)
	}
}

func TestAddRefuses(t *testing.T) {
	t.Parallel()
	other := pubtest.NewKey(t)
	for _, tt := range []struct {
		name  string
		spoil func(w *pubtest.World, o *ingest.Options)
		want  error
		says  string
	}{
		{"a flipped byte in the rootfs", func(w *pubtest.World, _ *ingest.Options) {
			b := w.Read("artifacts/rootfs")
			b[len(b)/2] ^= 1
			w.Write("artifacts/rootfs", b)
		}, cas.ErrCorrupt, "artifact rootfs"},
		{"a kernel that is cut short", func(w *pubtest.World, _ *ingest.Options) {
			w.Write("artifacts/kernel", w.Read("artifacts/kernel")[:1000])
		}, cas.ErrCorrupt, "1000 bytes, the manifest says 300000 bytes"},
		{"an empty initramfs", func(w *pubtest.World, _ *ingest.Options) { w.Write("artifacts/initramfs", nil) }, cas.ErrCorrupt, "initramfs"},
		{"a missing artifact", func(w *pubtest.World, _ *ingest.Options) { os.Remove(w.Path("artifacts/rootfs")) }, fs.ErrNotExist, "artifact rootfs"},
		{"missing artifacts", func(w *pubtest.World, o *ingest.Options) { o.Artifacts = w.Path("nowhere") }, fs.ErrNotExist, "nowhere"},
		{"a file as folder of artifacts", func(w *pubtest.World, o *ingest.Options) { o.Artifacts = w.Path("artifacts/kernel") }, fs.ErrInvalid, "kernel"},
		{"a file as store", func(w *pubtest.World, o *ingest.Options) { o.Store = w.Path("artifacts/kernel") }, nil, "artifacts/kernel"},
		{"a missing repository", func(w *pubtest.World, o *ingest.Options) { o.Repo = w.Path("nowhere") }, fs.ErrNotExist, "phase-sign init"},
		{"an empty repository", func(w *pubtest.World, o *ingest.Options) { o.Repo = t.TempDir() }, fs.ErrNotExist, "phase-sign init"},
		{"a file as repository", func(w *pubtest.World, o *ingest.Options) { o.Repo = w.Path("artifacts/kernel") }, fs.ErrInvalid, "is a file"},
		{"a manifest that an unknown key signed", func(w *pubtest.World, o *ingest.Options) { o.Manifest = w.Sign(2, "v2", other) }, manifest.ErrSignature, "stable-x86_64"},
		{"a manifest of another repository", func(w *pubtest.World, o *ingest.Options) {
			o.Manifest = anotherRepo(t, w).Sign(2, "v2", other)
		}, manifest.ErrSignature, "stable-x86_64"},
		{"a truncated manifest", func(_ *pubtest.World, o *ingest.Options) { o.Manifest = o.Manifest[:len(o.Manifest)/2] }, manifest.ErrMalformed, ""},
		{"an empty manifest", func(_ *pubtest.World, o *ingest.Options) { o.Manifest = nil }, manifest.ErrMalformed, "empty"},
		{"a root instead of a manifest", func(w *pubtest.World, o *ingest.Options) { o.Manifest = w.Read("repo/1.root.json") }, manifest.ErrMalformed, ""},
		{"an older version", func(w *pubtest.World, o *ingest.Options) {
			w.Add(w.Sign(3, "v3", w.Release))
			o.Manifest = w.Sign(2, "v2", w.Release)
		}, manifest.ErrRollback, "not newer than version 3"},
		{"the same version with other bytes", func(w *pubtest.World, o *ingest.Options) { o.Manifest = w.Sign(1, "v1b", w.Release) }, manifest.ErrRollback, "not newer"},
		{"an expired manifest", func(_ *pubtest.World, o *ingest.Options) {
			o.Now = func() time.Time { return time.Now().Add(1000 * time.Hour) }
		}, manifest.ErrExpired, ""},
		{"an online key that root.json does not name", func(_ *pubtest.World, o *ingest.Options) {
			o.Online = repo.OnlineKey{Signer: pubtest.Signer(t, other), Public: pubtest.Public(other)}
		}, manifest.ErrUntrusted, "--online-key"},
		{"a published snapshot that was changed", func(w *pubtest.World, o *ingest.Options) {
			o.Manifest = w.Sign(2, "v2", w.Release)
			s := w.Read("repo/1.snapshot.json")
			s[bytes.Index(s, []byte(`"expires": "20`))+len(`"expires": "20`)] = '9' // some decades later
			w.Write("repo/1.snapshot.json", s)
		}, manifest.ErrUntrusted, "snapshot"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := pubtest.New(t)
			release := w.Sign(1, "v1", w.Release)
			w.Add(release)
			opts := w.AddOptions(w.Sign(2, "v2", w.Release))
			tt.spoil(w, &opts)
			before := pubtest.FilesOf(t, w.Repo())
			_, err := ingest.Add(t.Context(), opts)
			if err == nil || (tt.want != nil && !errors.Is(err, tt.want)) || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("got %v, want %v that says %q", err, tt.want, tt.says)
			}
			pubtest.Unchanged(t, before, pubtest.FilesOf(t, w.Repo()))
		})
	}
}

// anotherRepo makes another repository with the artifacts of w.
func anotherRepo(t *testing.T, w *pubtest.World) *pubtest.World {
	other := pubtest.New(t)
	for _, role := range []string{"kernel", "initramfs", "rootfs", "job/hello.wasm"} {
		other.Write("artifacts/"+role, w.Read("artifacts/"+role))
	}
	return other
}

func TestAnInterruptedAddLeavesTheRepositoryUnchanged(t *testing.T) {
	w := pubtest.New(t)
	opts := w.AddOptions(w.Sign(1, "v1", w.Release))
	ctx, cancel := context.WithCancel(t.Context())
	opts.Watch = func(_ string, _ int64, r io.Reader) ingest.Watched {
		cancel()
		return &watchedFile{Reader: r}
	}
	before := pubtest.FilesOf(t, w.Repo())
	if _, err := ingest.Add(ctx, opts); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	pubtest.Unchanged(t, before, pubtest.FilesOf(t, w.Repo()))
}

// A watchedFile adds up the known bytes.
type watchedFile struct {
	io.Reader
	known atomic.Int64
}

func (w *watchedFile) Known(n int64) { w.known.Add(n) }
func (w *watchedFile) Close() error  { return nil }

func TestAddReportsTheBlocksThatTheStoreHad(t *testing.T) {
	w := pubtest.New(t)
	w.Add(w.Sign(1, "v1", w.Release))
	w.Write("artifacts/kernel", []byte("another kernel"))
	opts := w.AddOptions(w.Sign(2, "v2", w.Release))
	var mu sync.Mutex
	files := map[string]*watchedFile{}
	opts.Watch = func(name string, _ int64, r io.Reader) ingest.Watched {
		mu.Lock()
		defer mu.Unlock()
		files[name] = &watchedFile{Reader: r}
		return files[name]
	}
	added, err := ingest.Add(t.Context(), opts)
	pubtest.Check(t, err)
	var known int64
	for name, f := range files {
		known += f.known.Load()
		if fresh := name == "kernel"; fresh != (f.known.Load() == 0) {
			t.Errorf("%s: %d known bytes", name, f.known.Load())
		}
	}
	if known == 0 || known != added.KnownBytes {
		t.Errorf("%d known bytes, want %d", known, added.KnownBytes)
	}
}

// A signer's clock that is ahead would set the clock of every machine with the release to a
// date after the expiry of its metadata.
func TestAttackReleaseFromTheFuture(t *testing.T) {
	w := pubtest.New(t)
	opts := w.AddOptions(w.Sign(1, "v1", w.Release))
	add := func(behind time.Duration) (ingest.Added, error) {
		now := time.Now().Add(-behind)
		opts.Now = func() time.Time { return now }
		return ingest.Add(t.Context(), opts)
	}
	before := pubtest.FilesOf(t, w.Repo())
	_, err := add(time.Hour)
	if !errors.Is(err, manifest.ErrUntrusted) || !strings.Contains(err.Error(), `release "v1": signed at 20`) || !strings.Contains(err.Error(), "set the clock right") {
		t.Errorf("signed an hour from now: %v", err)
	}
	pubtest.Unchanged(t, before, pubtest.FilesOf(t, w.Repo()))
	if _, err := add(5 * time.Minute); err != nil {
		t.Errorf("signed by a clock that differs a little: %v", err)
	}
	if again, err := add(time.Hour); err != nil || !again.Unchanged {
		t.Errorf("what is published already: %+v, %v", again, err)
	}
}

func TestAddNeedsNoFilesThatTheStoreHas(t *testing.T) {
	w := pubtest.New(t)
	opts := w.AddOptions(w.Sign(1, "v1", w.Release))
	opts.Artifacts = ""
	if _, err := ingest.Add(t.Context(), opts); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a store: %v", err)
	}
	w.Add(opts.Manifest)
	opts.Manifest = w.Sign(2, "v2", w.Release)
	added, err := ingest.Add(t.Context(), opts)
	if err != nil || added.Release != "v2" || added.NewBytes != 0 {
		t.Errorf("got %+v, %v", added, err)
	}
	w.Write("artifacts/kernel", []byte("a kernel that the store has not"))
	opts.Manifest = w.Sign(3, "v3", w.Release)
	if _, err := ingest.Add(t.Context(), opts); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "--artifacts") {
		t.Errorf("got %v", err)
	}
}
