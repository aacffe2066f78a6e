package fetch

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
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

// The inner nodes of one level cost one round trip together.
func TestInnerNodesAreReadTogether(t *testing.T) {
	store := cas.NewMemory()
	data := castest.Bytes(1, 10_000_000)
	f, err := cas.AddFile(t.Context(), store.Put, bytes.NewReader(data), "size-4096") // 15 nodes below the root
	if err != nil {
		t.Fatal(err)
	}
	want, err := cas.Leaves(t.Context(), store, f.CID, f.Size)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		src, begun := &farSource{Memory: store, sent: cas.NewMemory()}, time.Now()
		got, err := listLeaves(t.Context(), src, f.CID, f.Size)
		if err != nil || len(got) != len(want) || got[len(got)-1] != want[len(want)-1] {
			t.Errorf("%d leaves and %v, want %d", len(got), err, len(want))
		}
		if took, n := time.Since(begun), src.requests.Load(); took != 2*time.Second || n != 16 {
			t.Errorf("%d requests in %s, want 16 in 2s", n, took)
		}
	})
}

// A node that is missing is reported by its file.
func TestAMissingInnerNodeIsAnError(t *testing.T) {
	lacking := cas.NewMemory()
	var first cid.Cid
	f, err := cas.AddFile(t.Context(), func(ctx context.Context, c cid.Cid, data []byte) error {
		if c.Prefix().Codec == cid.DagProtobuf && !first.Defined() {
			first = c
			return nil
		}
		return lacking.Put(ctx, c, data)
	}, bytes.NewReader(castest.Bytes(1, 2_000_000)), "size-4096")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listLeaves(t.Context(), lacking, f.CID, f.Size); err == nil {
		t.Error("no error")
	}
}
