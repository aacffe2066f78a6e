package peers

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/castest"
	"github.com/phaseboot/phaseboot/cas/pack"
)

// A hostile metadata folder has more blocks than the memory of a machine takes. Each is returned.
func TestTheMemoryOfAPoolIsBounded(t *testing.T) {
	blocks, memory := cas.NewMemory(), cas.NewMemory()
	set := newSet(nil, nil, &timing.Usual)
	s := NewSource(KindMirror, "https://mirror.invalid", nil)
	s.SetEndpoints([]*Endpoint{{Name: "memory", Blocks: blocks}})
	set.add(s)
	for i := range maxMemory/cas.MaxBlock + 3 {
		data := castest.Bytes(byte(i), cas.MaxBlock)
		c := cas.Sum(cid.Raw, data)
		if err := blocks.Put(t.Context(), c, data); err != nil {
			t.Fatal(err)
		}
		if got, err := (Pool{Memory: memory, Cache: &cache.Cache{}, Sources: set}).Block(t.Context(), c); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("block %d: %d bytes, %v", i, len(got), err)
		}
	}
	if n := memory.Bytes(); n != maxMemory {
		t.Errorf("%d bytes are in memory, want %d", n, maxMemory)
	}
}

// console calls a function when a line is printed.
type console func()

func (c console) Write(p []byte) (int, error) { c(); return len(p), nil }

// A check of a pointer has a deadline, which may pass while its last block is written to a slow
// disk. An error other than a MissingBlock would refuse the pointer for good.
func TestABlockIsReturnedIfItsTimeEndsWhileTheCacheStoresIt(t *testing.T) {
	store := cas.NewMemory()
	data := []byte("block")
	c := cas.Sum(cid.Raw, data)
	if err := store.Put(t.Context(), c, data); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var packs *pack.Store
	disk, err := cache.Open(t.Context(), cache.Options{
		Dir: cache.Dir(t.TempDir()), Within: time.Minute, Log: slog.New(slog.DiscardHandler), Report: report.New(time.Now(), console(cancel)),
		OpenPacks: func(ctx context.Context, dir string, o pack.Options) (s *pack.Store, err error) {
			packs, err = pack.OpenContext(ctx, dir, o)
			return packs, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	packs.Close() // the cache reports that it cannot store the block, and the console ends ctx
	set := newSet(nil, nil, &timing.Usual)
	s := NewSource(KindMirror, "https://mirror.invalid", nil)
	s.SetEndpoints([]*Endpoint{{Name: "memory", Blocks: store}})
	set.add(s)
	got, err := Pool{Memory: cas.NewMemory(), Cache: disk, Sources: set}.Block(ctx, c)
	if ctx.Err() == nil {
		t.Fatal("the context did not end")
	}
	if err != nil || string(got) != string(data) {
		t.Errorf("got %q, %v (missing block: %t)", got, err, errors.As(err, new(*MissingBlock)))
	}
}
