package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/s3test"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/bucket"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
)

// objectStore is the S3 server of all tests, which each use a prefix of their own.
var objectStore *s3test.Server

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "phase-s3-")
	if err == nil {
		defer os.RemoveAll(dir)
		if err = s3test.Setenv(); err == nil {
			objectStore, err = s3test.Start(dir)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "s3test:", err)
		return 1
	}
	defer objectStore.Stop()
	return m.Run()
}

// bucketOptions are the options of an export into the prefix of the test, which has the given folder.
func (w *world) bucketOptions() (o Options, dir string) {
	o = w.exportOptions()
	o.Out = objectStore.Address(w.T.Name())
	dir = objectStore.Path(w.T.Name(), "")
	pubtest.Check(w.T, os.RemoveAll(dir)) // of an earlier run
	return o, dir
}

// Without a key, an export keeps the record that is there, and does not make it stale.
func TestExportIntoABucketWithoutAKeyKeepsTheRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	o, dir := w.bucketOptions()
	w.export(o)
	o.IPNS, o.Grace = nil, 0
	if out := w.export(o); len(out.Records) != 1 || out.RemovedFiles != 0 {
		t.Errorf("%+v, want the record and nothing removed", out)
	}
	before := w.recordOf(dir)
	w.Next(2, "v2")
	if _, err := Export(t.Context(), o); !errors.Is(err, os.ErrInvalid) || !strings.Contains(err.Error(), "give its key with --ipns-key") {
		t.Errorf("a stale record: %v", err)
	}
	if got := w.releaseOf(mirrorFolder(dir), before); got != "v1" {
		t.Errorf("the record points to %s", got)
	}
}

func TestAnOldCopyOfTheRepositoryDoesNotReplaceAMirrorInABucket(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	pubtest.Check(t, os.CopyFS(w.Path("old"), os.DirFS(w.Repo())))
	w.Next(2, "v2")
	o, dir := w.bucketOptions()
	w.export(o)
	before := pubtest.FilesOf(t, dir)
	old := o
	old.Repo = w.Path("old")
	if _, err := Export(t.Context(), old); !errors.Is(err, manifest.ErrRollback) {
		t.Errorf("an older timestamp: %v", err)
	}
	w.Online = pubtest.NewKey(t) // the old root does not list it
	w.NextRoot(2, w.Root)
	w.Next(3, "v3")
	w.export(o)
	if _, err := Export(t.Context(), old); !errors.Is(err, manifest.ErrRollback) || !strings.Contains(err.Error(), "2.root.json") {
		t.Errorf("an older root: %v", err)
	}
	if slices.Equal(slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(pubtest.FilesOf(t, dir)))) {
		t.Error("the newer repository was not exported")
	}
}

// A mistyped address is refused before anything is written there.
func TestExportRefusesABucketWithOtherObjectsBeforeItWrites(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	o, dir := w.bucketOptions()
	pubtest.Check(t, os.MkdirAll(dir, 0o755))
	for _, name := range []string{"lease", "index.html"} {
		pubtest.Check(t, os.WriteFile(filepath.Join(dir, name), []byte("of another program"), 0o644))
		before := pubtest.FilesOf(t, dir)
		if _, err := Export(t.Context(), o); !errors.Is(err, os.ErrInvalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		pubtest.Unchanged(t, before, pubtest.FilesOf(t, dir))
		pubtest.Check(t, os.Remove(filepath.Join(dir, name)))
	}
	w.export(o)
	if is, err := bucket.Exists(t.Context(), o.Out); err != nil || is {
		t.Errorf("the mirror is taken for a store: %v, %v", is, err)
	}
}

// An export that is interrupted says so, also when no request was on its way.
func TestAnInterruptedExportIsNotComplete(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	o, _ := w.bucketOptions()
	e := &bucketExport{Options: o, bucket: dial(t, o.Out)}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.writeStage(ctx, []file{{path: "ipfs/one"}}, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want Canceled", err)
	}
}

// An export whose lock another process has taken writes nothing that machines read first.
func TestAnExportThatLostItsLockWritesNoTimestamp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	o, dir := w.bucketOptions()
	p, err := s3test.NewProxy(objectStore)
	pubtest.Check(t, err)
	t.Cleanup(p.Close)
	o.Out = s3test.Address(p.URL, w.T.Name())
	var once sync.Once
	p.Set(func(r *http.Request) s3test.Fault {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/"+dirBlocks) {
			once.Do(func() {
				old := time.Now().Add(-time.Hour)
				pubtest.Check(t, os.Chtimes(filepath.Join(dir, bucketLease), old, old)) // as if it were not renewed
				_, err := dial(t, objectStore.Address(w.T.Name()+"/"+strings.TrimSuffix(dirPrivate, "/"))).Lock(context.WithoutCancel(t.Context()))
				pubtest.Check(t, err)
			})
		}
		return s3test.None
	})
	if _, err := Export(t.Context(), o); !errors.Is(err, pack.ErrBusy) {
		t.Errorf("%v, want ErrBusy", err)
	}
	for name := range pubtest.FilesOf(t, dir) {
		if strings.HasSuffix(name, "timestamp.json") || strings.Contains(name, "/"+dirRecords) {
			t.Error("written:", name)
		}
	}
}

func dial(t *testing.T, address string) *bucket.Bucket {
	t.Helper()
	a, err := bucket.ParseAddress(address)
	pubtest.Check(t, err)
	b, err := bucket.Dial(a, nil)
	pubtest.Check(t, err)
	return b
}

// An artifact is uploaded in parts. The next export ends the upload of one that was killed, and no other upload.
func TestExportEndsTheUploadsOfAnExportThatWasKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Add(w.Sign(1, "v1", w.Release))
	o, _ := w.bucketOptions()
	core, err := minio.NewCore(strings.TrimPrefix(objectStore.Endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(s3test.AccessKey, s3test.SecretKey, ""), Region: "us-east-1",
	})
	pubtest.Check(t, err)
	own, other := w.T.Name()+"/"+dirTargets+"stable/x86_64/rootfs", w.T.Name()+"/of-another-program"
	for _, name := range []string{own, other} {
		_, err := core.NewMultipartUpload(t.Context(), s3test.Bucket, name, minio.PutObjectOptions{})
		pubtest.Check(t, err)
	}
	time.Sleep(1100 * time.Millisecond) // times of the object store are in seconds
	w.export(o)
	var left []string
	for u := range core.ListIncompleteUploads(t.Context(), s3test.Bucket, w.T.Name()+"/", true) {
		left = append(left, u.Key)
	}
	if !slices.Equal(left, []string{other}) {
		t.Errorf("left are the uploads of %v, want %s", left, other)
	}
}
