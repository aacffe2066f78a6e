package bucket_test

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/s3test"
	"github.com/phaseboot/phaseboot/publisher/bucket"
)

// leases makes a fault of each PUT of the lease.
func leases(fault s3test.Fault) func(*http.Request) s3test.Fault {
	return func(r *http.Request) s3test.Fault {
		if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/"+bucket.LeaseName) {
			return fault
		}
		return s3test.None
	}
}

// conditions makes a fault of each PUT with a condition.
func conditions(fault s3test.Fault) func(*http.Request) s3test.Fault {
	return func(r *http.Request) s3test.Fault {
		if r.Header.Get("If-Match") != "" || r.Header.Get("If-None-Match") != "" {
			return fault
		}
		return s3test.None
	}
}

// brief returns a context that ends while a request without an answer is waited for.
func brief(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// The server has renewed the lease, and the writer gave up before the answer: the lease is still its own.
func TestAnInterruptedRenewalDoesNotLoseTheLease(t *testing.T) {
	t.Parallel()
	p, address := proxied(t)
	w := open(t, address, bucket.Options{})
	p.Set(leases(s3test.Unanswered))
	if err := w.Sync(brief(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v, want an interruption", err)
	}
	p.Set(leases(s3test.None))
	fill(t, w, some(1, 1))
	p.Set(leases(s3test.Unanswered))
	if err := w.Sync(brief(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v, want an interruption", err)
	}
	p.Set(leases(s3test.None))
	check(t, w.Close()) // which gives the lease back
	check(t, open(t, address, bucket.Options{}).Close())
}

func TestAnInterruptedOpenGivesTheLeaseBack(t *testing.T) {
	t.Parallel()
	p, address := proxied(t)
	lease := server.Path(prefix(t), bucket.LeaseName)
	check(t, os.RemoveAll(lease)) // of an earlier run
	done := false
	p.Set(func(r *http.Request) s3test.Fault {
		if fault := leases(s3test.Unanswered)(r); fault != s3test.None && !done {
			done = true
			return fault
		}
		return s3test.None
	})
	ctx, interrupt := context.WithCancel(t.Context())
	go func() {
		for _, err := os.Stat(lease); err != nil && t.Context().Err() == nil; _, err = os.Stat(lease) {
			time.Sleep(time.Millisecond)
		}
		interrupt() // the server has written the lease
	}()
	if _, err := bucket.Open(ctx, address, bucket.Options{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, want an interruption", err)
	}
	check(t, open(t, address, bucket.Options{}).Close())
}

// A server that ignores conditions, or one of them, or refuses them, is written to. There, gc must not remove
// anything at once that another writer may need.
func TestAServerWithoutConditionsIsUsedWithALongGrace(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(r *http.Request) s3test.Fault{
		"both are ignored": conditions(s3test.Unconditional),
		"both are refused": conditions(s3test.Status501),
		"If-Match is ignored": func(r *http.Request) s3test.Fault {
			if r.Header.Get("If-Match") != "" {
				return s3test.Unconditional
			}
			return s3test.None
		},
		"If-Match is refused": func(r *http.Request) s3test.Fault {
			if r.Header.Get("If-Match") != "" {
				return s3test.Status501
			}
			return s3test.None
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, address := proxied(t)
			p.Set(fault)
			blocks := some(1, 4)
			w := open(t, address, bucket.Options{Grace: time.Minute})
			fill(t, w, blocks)
			if _, err := w.Collect(t.Context(), in(blocks), nil); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "use 1h0m0s or more") {
				t.Errorf("a short grace: %v", err)
			}
			if _, err := bucket.Open(t.Context(), address, bucket.Options{}); !errors.Is(err, pack.ErrBusy) {
				t.Errorf("a second writer: %v, want ErrBusy", err)
			}
			check(t, w.Close())
			w = open(t, address, bucket.Options{Grace: time.Hour})
			_, err := w.Collect(t.Context(), in(blocks), nil)
			check(t, err)
			old := time.Now().Add(-time.Hour)
			check(t, os.Chtimes(server.Path(prefix(t), bucket.LeaseName), old, old)) // as if it were not renewed
			other := open(t, address, bucket.Options{})
			if err := w.Sync(t.Context()); !errors.Is(err, pack.ErrBusy) {
				t.Errorf("a writer that was replaced: %v, want ErrBusy", err)
			}
			check(t, other.Close())
			wantAll(t, open(t, address, bucket.Options{ReadOnly: true}), blocks)
		})
	}
}
