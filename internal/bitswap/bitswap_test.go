package bitswap

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockstore"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	swarmt "github.com/libp2p/go-libp2p/p2p/net/swarm/testing"
	mh "github.com/multiformats/go-multihash"

	"github.com/phaseboot/phaseboot/cas"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newHost(t *testing.T) host.Host {
	t.Helper()
	h, err := basichost.NewHost(swarmt.GenSwarm(t, swarmt.OptDisableQUIC), nil)
	check(t, err)
	h.Start()
	t.Cleanup(func() { h.Close() })
	return h
}

// pair returns two connected hosts.
func pair(t *testing.T) (a, b host.Host) {
	t.Helper()
	a, b = newHost(t), newHost(t)
	check(t, a.Connect(t.Context(), peer.AddrInfo{ID: b.ID(), Addrs: b.Addrs()}))
	return a, b
}

func connected(context.Context) error { return nil }

// content returns n blocks of different sizes.
func content(t *testing.T, n int) map[cid.Cid][]byte {
	t.Helper()
	src := rand.NewChaCha8([32]byte{byte(n)})
	out := map[cid.Cid][]byte{}
	for i := range n {
		data := make([]byte, []int{1, 2, 70_000, 200_000, cas.MaxBlock}[i%5]+i)
		if len(data) > cas.MaxBlock {
			data = data[:cas.MaxBlock-i]
		}
		src.Read(data)
		codec := uint64(cid.Raw)
		if i%2 == 1 {
			codec = cid.DagProtobuf
		}
		c := cas.Sum(codec, data)
		if i%3 == 0 {
			sum := sha256.Sum256(data)
			digest, err := mh.Encode(sum[:], mh.SHA2_256)
			check(t, err)
			c = cid.NewCidV1(codec, digest)
		}
		out[c] = data
	}
	return out
}

func memory(t *testing.T, content map[cid.Cid][]byte) *cas.Memory {
	t.Helper()
	m := cas.NewMemory()
	for c, data := range content {
		check(t, m.Put(t.Context(), c, data))
	}
	return m
}

// getAll reads all blocks at the same time and checks them.
func getAll(t *testing.T, src cas.Source, want map[cid.Cid][]byte) {
	t.Helper()
	var all sync.WaitGroup
	for c, data := range want {
		all.Go(func() {
			got, err := cas.Get(t.Context(), src, c)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("block %s: %d of %d bytes, %v", c, len(got), len(data), err)
			}
		})
	}
	all.Wait()
}

// stock runs the Bitswap of boxo on a host.
func stock(t *testing.T, h host.Host, content map[cid.Cid][]byte) *bitswap.Bitswap {
	t.Helper()
	store := blockstore.NewBlockstore(dssync.MutexWrap(datastore.NewMapDatastore()))
	for c, data := range content {
		b, err := blocks.NewBlockWithCid(data, c)
		check(t, err)
		check(t, store.Put(t.Context(), b))
	}
	b := bitswap.New(t.Context(), bsnet.NewFromIpfsHost(h), nil, store)
	t.Cleanup(func() { b.Close() })
	return b
}

func TestAStockNodeFetchesFromUs(t *testing.T) {
	want := content(t, 60)
	ours, theirs := newHost(t), newHost(t)
	sent := make(chan int64, len(want)) // a message has a block or more
	s := Serve(ours, Options{Store: memory(t, want), Sent: func(n int64) { sent <- n }})
	defer s.Close()
	node := stock(t, theirs, nil)
	check(t, theirs.Connect(t.Context(), peer.AddrInfo{ID: ours.ID(), Addrs: ours.Addrs()}))
	var names []cid.Cid
	due := int64(0)
	for c, data := range want {
		names = append(names, c)
		due += int64(len(data))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	came, err := node.GetBlocks(ctx, names)
	check(t, err)
	got := 0
	for b := range came {
		if !bytes.Equal(b.RawData(), want[b.Cid()]) {
			t.Errorf("block %s differs", b.Cid())
		}
		got++
	}
	if got != len(want) {
		t.Errorf("%d of %d blocks", got, len(want))
	}
	for due > 0 { // a message may be counted after it was received
		select {
		case n := <-sent:
			due -= n
		case <-ctx.Done():
			t.Fatalf("%d bytes were not counted", due)
		}
	}
}

func TestWeFetchFromAStockNode(t *testing.T) {
	want := content(t, 60)
	ours, theirs := newHost(t), newHost(t)
	stock(t, theirs, want)
	client := NewClient(ours)
	check(t, ours.Connect(t.Context(), peer.AddrInfo{ID: theirs.ID(), Addrs: theirs.Addrs()}))
	p := client.Peer(theirs.ID(), connected)
	getAll(t, p, want)
	if _, err := p.Block(t.Context(), cas.Sum(cid.Raw, []byte("nobody has it"))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a block that is not there: %v", err)
	}
}

func TestClientAndServerExchangeBlocks(t *testing.T) {
	want := content(t, 200)
	a, b := pair(t)
	s := Serve(a, Options{Store: memory(t, want)})
	defer s.Close()
	p := NewClient(b).Peer(a.ID(), connected)
	getAll(t, p, want)
	if _, err := p.Block(t.Context(), cas.Sum(cid.Raw, []byte("nobody has it"))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a block that is not there: %v", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiters)+len(p.outstanding) > 0 {
		t.Errorf("%d waiters and %d wants are left", len(p.waiters), len(p.outstanding))
	}
}
