package resolve

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// A farSource needs a second for a block. It keeps what it has sent, as a peers.Pool does.
type farSource struct {
	*cas.Memory
	sent     *cas.Memory
	requests atomic.Int32
}

func (s *farSource) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if data, err := s.sent.Block(ctx, c); err == nil {
		return data, nil
	}
	s.requests.Add(1)
	time.Sleep(time.Second)
	data, err := s.Memory.Block(ctx, c)
	if err == nil {
		err = s.sent.Put(ctx, c, data)
	}
	return data, err
}

// The newest metadata files cost one round trip together, and none is requested twice.
func TestMetadataIsReadAhead(t *testing.T) {
	store := cas.NewMemory()
	var entries []cas.Link
	for _, name := range strings.Fields("1.root.json 2.snapshot.json 10.snapshot.json 3.targets.json 7.stable-x86_64.json 9.beta-x86_64.json timestamp.json") {
		c := cas.Sum(cid.Raw, []byte(name))
		if err := store.Put(t.Context(), c, []byte(name)); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, cas.Link{Name: name, CID: c})
	}
	root, err := cas.AddDir(t.Context(), store.Put, entries)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		src, begun := &farSource{Memory: store, sent: cas.NewMemory()}, time.Now()
		md := &Directory{root: root, src: src, memory: src.sent, roles: []string{"timestamp", "snapshot", "targets", "stable-x86_64", "none"}}
		if _, err := md.Metadata(t.Context(), "2.root.json", 100); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a root that is not there: %v", err)
		}
		for _, name := range strings.Fields("timestamp.json 10.snapshot.json 3.targets.json 7.stable-x86_64.json") {
			if data, err := md.Metadata(t.Context(), name, 100); err != nil || string(data) != name {
				t.Errorf("%s: %q and %v", name, data, err)
			}
		}
		md.reading.Wait()
		if took, n := time.Since(begun), src.requests.Load(); took != 2*time.Second || n != 5 {
			t.Errorf("%d requests in %s, want 5 in 2s", n, took)
		}
		if n := len(md.Unread()); n != 3 {
			t.Errorf("%d files are unread, want 3", n)
		}
	})
}
