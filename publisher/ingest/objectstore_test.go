package ingest_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/s3test"
	"github.com/phaseboot/phaseboot/publisher/bucket"
	"github.com/phaseboot/phaseboot/publisher/ingest"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
)

// objectStore starts an S3 server, and a proxy before it, for one test.
func objectStore(t *testing.T) (*s3test.Server, *s3test.Proxy) {
	t.Helper()
	pubtest.Check(t, s3test.Setenv())
	s, err := s3test.Start(t.TempDir())
	pubtest.Check(t, err)
	t.Cleanup(func() { s.Stop() })
	p, err := s3test.NewProxy(s)
	pubtest.Check(t, err)
	t.Cleanup(p.Close)
	return s, p
}

// Otherwise an add that began later may write newer metadata before.
func TestAddHasTheLeaseUntilTheMetadataAreWritten(t *testing.T) {
	t.Parallel()
	w := pubtest.New(t)
	s, proxy := objectStore(t)
	var holder atomic.Value
	proxy.Set(func(r *http.Request) s3test.Fault {
		if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/repo/timestamp.json") {
			var lease struct{ Holder string }
			data, err := os.ReadFile(s.Path("fleet", "lease"))
			if err = errors.Join(err, json.Unmarshal(data, &lease)); err != nil {
				t.Error(err)
			}
			holder.Store(lease.Holder)
		}
		return s3test.None
	})
	opts := w.AddOptions(w.Sign(1, "v1", w.Release))
	opts.Store = s3test.Address(proxy.URL, "fleet")
	if _, err := ingest.Add(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	if holder.Load() == nil || holder.Load() == "" {
		t.Errorf("lease of %v", holder.Load())
	}
}

// An add that lost the lease may have found blocks that gc of another process removes.
func TestAddWithoutFilesPublishesNothingAfterItLostTheLease(t *testing.T) {
	t.Parallel()
	w := pubtest.New(t)
	s, proxy := objectStore(t)
	opts := w.AddOptions(w.Sign(1, "v1", w.Release))
	opts.Store = s3test.Address(proxy.URL, "fleet")
	_, err := ingest.Add(t.Context(), opts)
	pubtest.Check(t, err)

	address, err := bucket.ParseAddress(s.Address("fleet"))
	pubtest.Check(t, err)
	direct, err := bucket.Dial(address, nil)
	pubtest.Check(t, err)
	var taken atomic.Bool
	proxy.Set(func(r *http.Request) s3test.Fault {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, ".car") && !taken.Swap(true) {
			if err := direct.Write(t.Context(), bucket.LeaseName, []byte(`{"holder":"a gc"}`), "application/json"); err != nil {
				t.Error(err)
			}
		}
		return s3test.None
	})
	before := pubtest.FilesOf(t, w.Repo())
	opts.Manifest, opts.Artifacts = w.Sign(2, "v2", w.Release), ""
	if _, err := ingest.Add(t.Context(), opts); !errors.Is(err, pack.ErrBusy) {
		t.Errorf("%v, taken %v", err, taken.Load())
	}
	pubtest.Unchanged(t, before, pubtest.FilesOf(t, w.Repo()))
}
