package publisher

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

func TestAddPublishesWhatWasSigned(t *testing.T) {
	w := newWorld(t)
	added := w.add(w.sign(1, "v1", w.release))
	if added.NewBytes < 3_370_100 || added.KnownBytes != 0 || added.Timestamp != 1 || added.Unchanged {
		t.Errorf("got %+v", added)
	}
	v := w.verify(manifest.DirFetcher(w.repo()))
	if v.Release().Version != "v1" || v.TimestampVersion() != 1 {
		t.Errorf("verified %q at timestamp %d", v.Release().Version, v.TimestampVersion())
	}
	store, err := openStore(w.path("store"), nil)
	check(t, err)
	defer store.Close()
	for _, a := range v.Release().Artifacts {
		var got bytes.Buffer
		check(t, cas.Copy(t.Context(), &got, store, a.CID, a.Length))
		if !bytes.Equal(got.Bytes(), w.read("artifacts/"+a.Role)) {
			t.Errorf("%s in the store is not the file", a.Role)
		}
	}
}

func TestTheNextReleaseSharesItsBlocks(t *testing.T) {
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	rootfs := w.read("artifacts/rootfs")
	w.write("artifacts/rootfs", append(bytes.Clone(rootfs[:1_000_000]), append([]byte("an insertion"), rootfs[1_000_000:]...)...))
	added := w.add(w.sign(2, "v2", w.release))
	if added.NewBytes > 600_000 || added.KnownBytes < 2_500_000 || added.Timestamp != 2 || added.Snapshot != 2 {
		t.Errorf("got %+v", added)
	}
	if got := w.verify(manifest.DirFetcher(w.repo())).Release().Version; got != "v2" {
		t.Errorf("the head is %q", got)
	}
}

func TestAddingTheSameManifestAgainChangesNothing(t *testing.T) {
	w := newWorld(t)
	release := w.sign(1, "v1", w.release)
	first := w.add(release)
	before := snapshotOf(t, w.repo())
	again := w.add(release)
	if !again.Unchanged || again.Head != first.Head || again.NewBlocks != 0 {
		t.Errorf("got %+v", again)
	}
	unchanged(t, before, snapshotOf(t, w.repo()))

	opts := w.options(release)
	opts.Now = func() time.Time { return time.Now().Add(20 * time.Hour) } // the timestamp is getting old
	renewed, err := Add(t.Context(), opts)
	if err != nil || !renewed.Unchanged || renewed.Timestamp != 2 || renewed.Snapshot != 1 {
		t.Errorf("got %+v, %v", renewed, err)
	}
}

func TestAddRefuses(t *testing.T) {
	t.Parallel()
	stranger := newKey(t)
	for _, tt := range []struct {
		name  string
		spoil func(w *world, o *AddOptions)
		want  error
		says  string
	}{
		{"a flipped byte in the rootfs", func(w *world, _ *AddOptions) {
			b := w.read("artifacts/rootfs")
			b[len(b)/2] ^= 1
			w.write("artifacts/rootfs", b)
		}, cas.ErrCorrupt, "artifact rootfs"},
		{"a kernel that is cut short", func(w *world, _ *AddOptions) {
			w.write("artifacts/kernel", w.read("artifacts/kernel")[:1000])
		}, cas.ErrCorrupt, "1000 bytes, the manifest says 300000 bytes"},
		{"an empty initramfs", func(w *world, _ *AddOptions) { w.write("artifacts/initramfs", nil) }, cas.ErrCorrupt, "initramfs"},
		{"a missing artifact", func(w *world, _ *AddOptions) { os.Remove(w.path("artifacts/rootfs")) }, fs.ErrNotExist, "artifact rootfs"},
		{"missing artifacts", func(w *world, o *AddOptions) { o.Artifacts = w.path("nowhere") }, fs.ErrNotExist, "nowhere"},
		{"a file as folder of artifacts", func(w *world, o *AddOptions) { o.Artifacts = w.path("artifacts/kernel") }, fs.ErrInvalid, "kernel"},
		{"a file as store", func(w *world, o *AddOptions) { o.Store = w.path("artifacts/kernel") }, nil, "artifacts/kernel"},
		{"a missing repository", func(w *world, o *AddOptions) { o.Repo = w.path("nowhere") }, fs.ErrNotExist, "phase-sign init"},
		{"an empty repository", func(w *world, o *AddOptions) { o.Repo = t.TempDir() }, fs.ErrNotExist, "phase-sign init"},
		{"a file as repository", func(w *world, o *AddOptions) { o.Repo = w.path("artifacts/kernel") }, fs.ErrInvalid, "is a file"},
		{"a manifest that a stranger signed", func(w *world, o *AddOptions) { o.Manifest = w.sign(2, "v2", stranger) }, manifest.ErrSignature, "stable-x86_64"},
		{"a manifest of another repository", func(w *world, o *AddOptions) {
			o.Manifest = newWorldIn(t, w).sign(2, "v2", stranger)
		}, manifest.ErrSignature, "stable-x86_64"},
		{"a truncated manifest", func(_ *world, o *AddOptions) { o.Manifest = o.Manifest[:len(o.Manifest)/2] }, manifest.ErrMalformed, ""},
		{"an empty manifest", func(_ *world, o *AddOptions) { o.Manifest = nil }, manifest.ErrMalformed, "empty"},
		{"a root instead of a manifest", func(w *world, o *AddOptions) { o.Manifest = w.read("repo/1.root.json") }, manifest.ErrMalformed, ""},
		{"an older version", func(w *world, o *AddOptions) {
			w.add(w.sign(3, "v3", w.release))
			o.Manifest = w.sign(2, "v2", w.release)
		}, manifest.ErrRollback, "not newer than version 3"},
		{"the same version with other bytes", func(w *world, o *AddOptions) { o.Manifest = w.sign(1, "v1b", w.release) }, manifest.ErrRollback, "not newer"},
		{"an expired manifest", func(_ *world, o *AddOptions) {
			o.Now = func() time.Time { return time.Now().Add(1000 * time.Hour) }
		}, manifest.ErrExpired, ""},
		{"an online key that root.json does not name", func(_ *world, o *AddOptions) {
			o.Online = Online{Signer: signer(t, stranger), Public: public(stranger)}
		}, manifest.ErrUntrusted, "--online-key"},
		{"a published snapshot that somebody changed", func(w *world, o *AddOptions) {
			o.Manifest = w.sign(2, "v2", w.release)
			s := w.read("repo/1.snapshot.json")
			s[bytes.Index(s, []byte(`"expires": "20`))+len(`"expires": "20`)] = '9' // some decades later
			w.write("repo/1.snapshot.json", s)
		}, manifest.ErrUntrusted, "snapshot"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			release := w.sign(1, "v1", w.release)
			w.add(release)
			opts := w.options(w.sign(2, "v2", w.release))
			tt.spoil(w, &opts)
			before := snapshotOf(t, w.repo())
			_, err := Add(t.Context(), opts)
			if err == nil || (tt.want != nil && !errors.Is(err, tt.want)) || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("got %v, want %v that says %q", err, tt.want, tt.says)
			}
			unchanged(t, before, snapshotOf(t, w.repo()))
		})
	}
}

// newWorldIn is another repository with the artifacts of w.
func newWorldIn(t *testing.T, w *world) *world {
	other := newWorld(t)
	for _, role := range []string{"kernel", "initramfs", "rootfs", "job/hello.wasm"} {
		other.write("artifacts/"+role, w.read("artifacts/"+role))
	}
	return other
}

func TestAddThatIsInterruptedLeavesTheRepositoryAlone(t *testing.T) {
	w := newWorld(t)
	opts := w.options(w.sign(1, "v1", w.release))
	ctx, cancel := context.WithCancel(t.Context())
	opts.Watch = func(_ string, _ int64, r io.Reader) Watched {
		cancel()
		return &watchedFile{Reader: r}
	}
	before := snapshotOf(t, w.repo())
	if _, err := Add(ctx, opts); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	unchanged(t, before, snapshotOf(t, w.repo()))
}

// A watchedFile counts what it is told.
type watchedFile struct {
	io.Reader
	known atomic.Int64
}

func (w *watchedFile) Known(n int64) { w.known.Add(n) }
func (w *watchedFile) Close() error  { return nil }

func TestWhoeverWatchesAddIsToldWhatTheStoreHad(t *testing.T) {
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	w.write("artifacts/kernel", []byte("another kernel"))
	opts := w.options(w.sign(2, "v2", w.release))
	var mu sync.Mutex
	files := map[string]*watchedFile{}
	opts.Watch = func(name string, _ int64, r io.Reader) Watched {
		mu.Lock()
		defer mu.Unlock()
		files[name] = &watchedFile{Reader: r}
		return files[name]
	}
	added, err := Add(t.Context(), opts)
	check(t, err)
	var told int64
	for name, f := range files {
		told += f.known.Load()
		if fresh := name == "kernel"; fresh != (f.known.Load() == 0) {
			t.Errorf("%s: told of %d bytes", name, f.known.Load())
		}
	}
	if told == 0 || told != added.KnownBytes {
		t.Errorf("told of %d bytes, %d were there", told, added.KnownBytes)
	}
}

func TestArtifactsAreFoundByTheirBytes(t *testing.T) {
	const right, wrong, short = "the signed bytes", "some other bytes", "cut"
	sum := sha256.Sum256([]byte(right))
	for _, tt := range []struct {
		name, role string
		files      map[string]string
		want       string // "" for a refusal
		err        error  // of the refusal
	}{
		{"by role", "kernel", map[string]string{"kernel": right, "kernel-6.12": wrong}, "kernel", nil},
		{"by role with a folder", "dtb/board.dtb", map[string]string{"dtb/board.dtb": right, "board.dtb": right}, "dtb/board.dtb", nil},
		{"by the role's last element", "job/hello.wasm", map[string]string{"hello.wasm": right}, "hello.wasm", nil},
		{"by a suffix", "rootfs", map[string]string{"rootfs.squashfs": right, "kernel": wrong}, "rootfs.squashfs", nil},
		{"as Debian names kernels", "kernel", map[string]string{"vmlinuz-6.1": right, "initrd.img-6.1": wrong}, "vmlinuz-6.1", nil},
		{"in a folder of another name", "kernel", map[string]string{"boot/vmlinuz-6.1": right}, "boot/vmlinuz-6.1", nil},
		{"of two versions, the signed one", "kernel", map[string]string{"kernel-6.12": wrong, "kernel-6.13": right}, "kernel-6.13", nil},
		{"the signed bytes win over a name", "kernel", map[string]string{"kernel": wrong, "vmlinuz-6.1": right}, "vmlinuz-6.1", nil},
		{"and over a name with another length", "kernel", map[string]string{"kernel": short, "vmlinuz-6.1": right}, "vmlinuz-6.1", nil},
		{"a name alone is left to the comparison", "kernel", map[string]string{"kernel": wrong}, "kernel", nil},
		{"also beside others that do not fit", "kernel", map[string]string{"kernel": short, "vmlinuz-6.1": wrong}, "kernel", nil},
		{"not by its length alone", "kernel", map[string]string{"vmlinuz-6.1": wrong}, "", cas.ErrCorrupt},
		{"not when there is none", "kernel", map[string]string{"kernels": short}, "", fs.ErrNotExist},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := &world{t: t, dir: t.TempDir()}
			for name, text := range tt.files {
				w.write(name, []byte(text))
			}
			there, err := listCandidates(t.Context(), w.dir)
			check(t, err)
			got, err := there.find(t.Context(), manifest.Artifact{Role: tt.role, Length: int64(len(right)), SHA256: hex.EncodeToString(sum[:])})
			if tt.want == "" {
				if !errors.Is(err, tt.err) {
					t.Fatalf("got %s, %v", got, err)
				}
				return
			}
			if err != nil || got != w.path(tt.want) {
				t.Fatalf("got %s, %v; want %s", got, err, tt.want)
			}
		})
	}
}

// A signer whose clock is ahead would carry every machine that sees the release beyond the
// end of its metadata.
func TestAttackReleaseFromTheFuture(t *testing.T) {
	w := newWorld(t)
	opts := w.options(w.sign(1, "v1", w.release))
	add := func(behind time.Duration) (Added, error) {
		now := time.Now().Add(-behind)
		opts.Now = func() time.Time { return now }
		return Add(t.Context(), opts)
	}
	before := snapshotOf(t, w.repo())
	_, err := add(time.Hour)
	if !errors.Is(err, manifest.ErrUntrusted) || !strings.Contains(err.Error(), `release "v1": signed at 20`) || !strings.Contains(err.Error(), "set the clock right") {
		t.Errorf("signed an hour from now: %v", err)
	}
	unchanged(t, before, snapshotOf(t, w.repo()))
	if _, err := add(5 * time.Minute); err != nil {
		t.Errorf("signed by a clock that differs a little: %v", err)
	}
	if again, err := add(time.Hour); err != nil || !again.Unchanged {
		t.Errorf("what is published already: %+v, %v", again, err)
	}
}
