package bucket_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/internal/s3test"
	"github.com/phaseboot/phaseboot/publisher/bucket"
)

// A store at its limits refuses a block before anything is uploaded: it can be opened, read and collected.
func TestAFullStoreRefusesABlockAndCanBeCollected(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]bucket.Options{
		"packs":  bucket.Options{MaxPack: 1, Grace: time.Hour}.Most(6, 100),
		"blocks": bucket.Options{Grace: time.Hour}.Most(100, 6),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := server.Address(prefix(t))
			check(t, os.RemoveAll(server.Path(prefix(t), ""))) // of an earlier run
			blocks := some(1, 6)
			w := open(t, address, o)
			fill(t, w, blocks)
			put := func() (err error) {
				for c, data := range some(2, 1) {
					err = w.Put(t.Context(), c, data)
				}
				return err
			}
			if err := put(); err == nil || !strings.Contains(err.Error(), "phase-publish gc") {
				t.Errorf("%v, want the remedy", err)
			}
			check(t, w.Close())
			w = open(t, address, o)
			wantAll(t, w, blocks)
			kept := half(blocks)
			_, err := w.Collect(t.Context(), in(kept), nil)
			check(t, err)
			age(t, "gone", 2*time.Hour)
			_, err = w.Collect(t.Context(), in(kept), nil)
			check(t, err)
			check(t, put())
			check(t, w.Close())
			wantAll(t, open(t, address, bucket.Options{ReadOnly: true}), kept)
		})
	}
}

// A store that is too large is refused before its indexes are read.
func TestAStoreThatIsTooLargeIsNotRead(t *testing.T) {
	t.Parallel()
	p, address := proxied(t)
	w := open(t, address, bucket.Options{MaxPack: 1})
	fill(t, w, some(1, 5))
	check(t, w.Close())
	var read atomic.Int64
	p.Set(func(r *http.Request) s3test.Fault {
		if strings.HasSuffix(r.URL.Path, ".idx") {
			read.Add(1)
		}
		return s3test.None
	})
	for _, o := range []bucket.Options{bucket.Options{ReadOnly: true}.Most(2, 100), bucket.Options{ReadOnly: true}.Most(100, 2)} {
		if _, err := bucket.Open(t.Context(), address, o); err == nil || !strings.Contains(err.Error(), "the limits are") {
			t.Error(err)
		}
	}
	if read.Load() > 0 {
		t.Errorf("%d indexes were read", read.Load())
	}
}

// closeSoon closes a store, which must not take long.
func closeSoon(t *testing.T, s *bucket.Store) error {
	t.Helper()
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		return err
	case <-time.After(15 * time.Second):
		t.Fatal("Close waits for the object store")
		return nil
	}
}

// packPuts makes a fault of each PUT of a pack.
func packPuts(fault s3test.Fault, n *atomic.Int64) func(*http.Request) s3test.Fault {
	return func(r *http.Request) s3test.Fault {
		if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, ".car") {
			n.Add(1)
			return fault
		}
		return s3test.None
	}
}

// A writer that was interrupted uploads nothing more, says so, and gives the lease back.
func TestCloseAfterAnInterruptionIsQuick(t *testing.T) {
	t.Parallel()
	p, address := proxied(t)
	check(t, os.RemoveAll(server.Path(prefix(t), ""))) // of an earlier run: these blocks must be new
	ctx, interrupt := context.WithCancel(t.Context())
	w, err := bucket.Open(ctx, address, bucket.Options{MaxPack: 4000})
	check(t, err)
	var puts atomic.Int64
	p.Set(packPuts(s3test.Hangs, &puts))
	blocks := some(1, 3)
	for c, data := range blocks {
		check(t, w.Put(ctx, c, data))
	}
	for puts.Load() < 2 { // uploads have begun, and a pack is open
		time.Sleep(time.Millisecond)
	}
	interrupt()
	if err := closeSoon(t, w); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that blocks are not stored", err)
	}
	p.Set(packPuts(s3test.None, &puts))
	w = open(t, address, bucket.Options{})
	fill(t, w, blocks)
	check(t, w.Close())
}

// Close does not try again what has failed.
func TestCloseAfterAFailedUploadIsQuick(t *testing.T) {
	t.Parallel()
	p, address := proxied(t)
	w := open(t, address, bucket.Options{MaxPack: 4000})
	var puts atomic.Int64
	p.Set(packPuts(s3test.Status501, &puts))
	for c, data := range some(1, 2) {
		check(t, w.Put(t.Context(), c, data))
	}
	if err := w.Sync(t.Context()); err == nil {
		t.Fatal("stored")
	}
	n := puts.Load()
	if err := closeSoon(t, w); err == nil || puts.Load() != n {
		t.Errorf("%v, %d more uploads", err, puts.Load()-n)
	}
	p.Set(packPuts(s3test.None, &puts))
	check(t, open(t, address, bucket.Options{}).Close())
}
