package bucket_test

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/s3test"
	"github.com/phaseboot/phaseboot/publisher/bucket"
)

// Anybody may ask a replica for blocks that do not exist.
func TestRequestsForAbsentBlocksListThePacksOnceASecond(t *testing.T) {
	t.Parallel()
	p, address := proxied(t)
	w := open(t, address, bucket.Options{})
	fill(t, w, some(1, 3))
	check(t, w.Close())
	r := open(t, address, bucket.Options{ReadOnly: true})
	ask := func(ctx context.Context, n int, want error) {
		t.Helper()
		var all sync.WaitGroup
		for c := range some(2, n) {
			all.Go(func() {
				if _, err := r.Block(ctx, c); !errors.Is(err, want) {
					t.Errorf("%v, want %v", err, want)
				}
			})
		}
		all.Wait()
	}
	time.Sleep(1100 * time.Millisecond)
	before := p.Requests.Load()
	ask(t.Context(), 50, fs.ErrNotExist)
	if n := p.Requests.Load() - before; n != 1 {
		t.Errorf("%d lists for 50 absent blocks", n)
	}

	// Nobody waits for a list that takes longer than the request may.
	time.Sleep(1100 * time.Millisecond)
	release := make(chan struct{})
	p.Set(func(*http.Request) s3test.Fault { <-release; return s3test.None })
	brief, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	ask(brief, 50, context.DeadlineExceeded)
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("they waited for %s", took)
	}
	close(release)
}

// A client that asks for a block and leaves does not stop the request that others may wait for. So the number of such
// requests is bounded.
func TestReadersThatGaveUpLeaveFewRequests(t *testing.T) {
	t.Parallel()
	p, address := proxied(t)
	blocks := some(3, 100)
	w := open(t, address, bucket.Options{MaxPack: 1}) // a pack for each block
	fill(t, w, blocks)
	check(t, w.Close())
	r := open(t, address, bucket.Options{ReadOnly: true})
	var begun atomic.Int32
	release := make(chan struct{})
	p.Set(func(req *http.Request) s3test.Fault {
		if req.Method == http.MethodGet && strings.HasSuffix(req.URL.Path, ".car") {
			begun.Add(1)
			<-release
		}
		return s3test.None
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for c := range blocks {
		all.Go(func() {
			if _, err := r.Block(ctx, c); err == nil || errors.Is(err, cas.ErrCorrupt) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := begun.Load(); n != 32 {
		t.Errorf("%d requests go on, want 32", n)
	}
	close(release)
	wantAll(t, r, blocks)
}
