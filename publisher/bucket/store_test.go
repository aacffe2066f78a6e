package bucket_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/s3test"
	"github.com/phaseboot/phaseboot/publisher/bucket"
)

// childAddress is the environment variable with the address of the store of a child process.
const childAddress = "BUCKET_TEST_CHILD"

// prefix is a prefix of its own for each test.
func prefix(t *testing.T) string {
	return strings.NewReplacer("/", "-", " ", "-", ",", "", "#", "-").Replace(t.Name())
}

func open(t *testing.T, address string, o bucket.Options) *bucket.Store {
	t.Helper()
	s, err := bucket.Open(t.Context(), address, o)
	check(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestStoreKeepsThePromisesOfAStore(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]bucket.Options{
		"one pack":        {},
		"a pack a block":  {MaxPack: 1},
		"packs of 64 KiB": {MaxPack: 64 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			castest.Run(t, func(t *testing.T) cas.Store { return open(t, server.Address(prefix(t)), o) })
		})
	}
}

func fill(t *testing.T, s cas.Store, blocks map[cid.Cid][]byte) {
	t.Helper()
	for c, data := range blocks {
		check(t, s.Put(t.Context(), c, data))
	}
	check(t, s.Sync(t.Context()))
}

func TestStoreKeepsThePromisesOfASource(t *testing.T) {
	t.Parallel()
	small := bucket.Options{MaxPack: 100_000}
	for name, source := range map[string]func(t *testing.T, blocks map[cid.Cid][]byte) cas.Source{
		"a writer": func(t *testing.T, blocks map[cid.Cid][]byte) cas.Source {
			w := open(t, server.Address(prefix(t)), small)
			fill(t, w, blocks)
			return w
		},
		"a reader that opened the store before": func(t *testing.T, blocks map[cid.Cid][]byte) cas.Source {
			w := open(t, server.Address(prefix(t)), small)
			r := open(t, server.Address(prefix(t)), bucket.Options{ReadOnly: true})
			fill(t, w, blocks)
			_, err := r.Stats(t.Context())
			check(t, err)
			return r
		},
		"a reader with a cache on a disk": func(t *testing.T, blocks map[cid.Cid][]byte) cas.Source {
			w := open(t, server.Address(prefix(t)), bucket.Options{})
			fill(t, w, blocks)
			return open(t, server.Address(prefix(t)), bucket.Options{ReadOnly: true, Cache: bucket.CacheOptions{Dir: t.TempDir(), Size: 8 << 20}})
		},
	} {
		t.Run(name, func(t *testing.T) { castest.RunSource(t, source) })
	}
}

// some returns n blocks of a few kilobytes.
func some(seed byte, n int) map[cid.Cid][]byte {
	blocks := map[cid.Cid][]byte{}
	for i := range n {
		data := castest.Bytes(seed, 3000+i)
		blocks[cas.Sum(cid.Raw, data)] = data
	}
	return blocks
}

// wantAll reads all blocks.
func wantAll(t *testing.T, s cas.Source, blocks map[cid.Cid][]byte) {
	t.Helper()
	for c := range blocks {
		if _, err := cas.Get(t.Context(), s, c); err != nil {
			t.Error(err)
		}
	}
}

// fsck returns the damage of a store.
func fsck(t *testing.T, address string) (found []pack.Damage) {
	t.Helper()
	s := open(t, address, bucket.Options{ReadOnly: true})
	_, err := s.Fsck(t.Context(), func(d pack.Damage) { found = append(found, d) }, nil)
	check(t, err)
	return found
}

// A proxied store is reached through a proxy that makes faults.
func proxied(t *testing.T) (*s3test.Proxy, string) {
	t.Helper()
	p, err := s3test.NewProxy(server)
	check(t, err)
	t.Cleanup(p.Close)
	return p, s3test.Address(p.URL, prefix(t))
}

// everyOther makes a fault of every second request for an object that match accepts, beginning with the
// first.
func everyOther(fault s3test.Fault, match func(*http.Request) bool) func(*http.Request) s3test.Fault {
	var mu sync.Mutex
	odd := map[string]bool{}
	return func(r *http.Request) s3test.Fault {
		mu.Lock()
		defer mu.Unlock()
		object := r.Method + r.URL.Path
		if !match(r) {
			return s3test.None
		}
		if odd[object] = !odd[object]; odd[object] {
			return fault
		}
		return s3test.None
	}
}
