package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/routing"
	"github.com/multiformats/go-multiaddr"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/ipnsname"
	"github.com/phaseboot/phaseboot/internal/p2p"
)

const (
	dhtPrefix     = "/phaseboot/bench"
	dhtConns      = 128              // connections of a node
	dhtConnsPerIP = 1 << 12          // many nodes may share an address
	dhtSettleTime = 90 * time.Second // to fill the routing tables, and again to become idle
	lookupLimit   = 30 * time.Second // timeout of a lookup
	leaveOneIn    = 5                // under churn, one node of five leaves
)

// An overlay is the DHT: nodes in this process on a memoryNetwork. The first is the
// publisher.
type overlay struct {
	nodes []*p2p.Node
	net   *memoryNetwork
	key   ed25519.PrivateKey
	name  string
	seq   uint64
}

// A lookup is the cost for a booting machine of the newest IPNS record and one provider.
type lookup struct {
	resolve, find time.Duration
	hops          int // longest chain of peers, each learned from the previous one
	queried       int // all peers that got a query
}

// dht grows a DHT and measures lookups at each size, first in a stable network and then under
// churn, while a fifth of the nodes leave.
func (t *tool) dht(ctx context.Context) error {
	o, err := newOverlay()
	if err != nil {
		return err
	}
	defer o.close()
	fmt.Printf("  nodes in one process, connected in memory; %d lookups each, by clients that bootstrap from two random nodes\n", t.lookups)
	fmt.Printf("  %-22s %19s %19s %11s %11s %7s %9s %9s\n", "nodes", "record (p50 p95)", "provider (p50 p95)", "hops", "queried", "failed", "CPU each", "MiB/node")
	var stable, churn []point
	for _, n := range t.nodes {
		if err := o.grow(ctx, n); err != nil {
			return err
		}
		for _, leave := range []int{0, n / leaveOneIn} {
			folder, err := o.publish(ctx)
			if err != nil {
				return err
			}
			before := ownCPU()
			found, failed := o.lookups(ctx, t.lookups, leave, folder)
			each := (ownCPU() - before) / time.Duration(t.lookups)
			if ctx.Err() != nil || len(found) == 0 {
				return fmt.Errorf("%d nodes: no lookup succeeded: %w", n, ctx.Err())
			}
			p := summary(n, found)
			p.print(leave, failed, each, len(o.nodes))
			if leave == 0 {
				stable = append(stable, p)
			} else {
				churn = append(churn, p)
			}
		}
		if err := t.draw(stable, churn); err != nil {
			return err
		}
	}
	return nil
}

// draw writes the plot of the sizes so far, because a large DHT takes long.
func (t *tool) draw(stable, churn []point) error {
	if t.svg == "" {
		return nil
	}
	return os.WriteFile(t.svg, plot(stable, churn), 0o644)
}

func newOverlay() (*overlay, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	name, err := ipnsname.Of(key.Public().(ed25519.PublicKey))
	return &overlay{net: newMemoryNetwork(), key: key, name: name}, err
}

func (o *overlay) close() {
	var all sync.WaitGroup
	for _, n := range o.nodes {
		all.Go(func() { n.Close() })
	}
	all.Wait()
}

// grow adds nodes until there are n, each bootstrapped from three others. It returns when the
// routing tables are filled and the process is idle.
func (o *overlay) grow(ctx context.Context, n int) error {
	listen := []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/127.0.0.1/udp/0/quic-v1")}
	for len(o.nodes) < n {
		node, err := p2p.New(ctx, p2p.Options{
			Transports: []p2p.Transport{o.net.server}, Listen: listen, DHT: p2p.DHTServer, Prefix: dhtPrefix, Bootstrap: o.bootstrapPeers(3), MaxConns: dhtConns, MaxConnsPerIP: dhtConnsPerIP,
		})
		if err != nil {
			return err
		}
		o.nodes = append(o.nodes, node)
	}
	enough := min(n-1, 20) / 2
	for end := time.Now().Add(dhtSettleTime); ; time.Sleep(100 * time.Millisecond) {
		sparse := 0
		for _, node := range o.nodes {
			if node.DHTPeers() < enough {
				sparse++
			}
		}
		switch {
		case sparse == 0 || ctx.Err() != nil:
			waitIdle(ctx)
			return ctx.Err()
		case time.Now().After(end) && sparse > n/20:
			return fmt.Errorf("%d nodes: %d routing tables have less than %d peers after %s", n, sparse, enough, dhtSettleTime)
		case time.Now().After(end):
			fmt.Printf("  %d of %d routing tables have less than %d peers after %s\n", sparse, n, enough, dhtSettleTime)
			return nil
		}
	}
}

// waitIdle waits until this process uses less than a quarter of a core: new nodes refresh
// their routing tables for a while, which would delay lookups.
func waitIdle(ctx context.Context) {
	const look = 500 * time.Millisecond
	for end := time.Now().Add(dhtSettleTime); time.Now().Before(end) && ctx.Err() == nil; {
		before := ownCPU()
		time.Sleep(look)
		if ownCPU()-before < look/4 {
			return
		}
	}
}

// bootstrapPeers returns n random nodes.
func (o *overlay) bootstrapPeers(n int) []peer.AddrInfo {
	var out []peer.AddrInfo
	for _, i := range mrand.Perm(len(o.nodes))[:min(n, len(o.nodes))] {
		if infos, err := peer.AddrInfosFromP2pAddrs(o.nodes[i].Addrs()...); err == nil {
			out = append(out, infos...)
		}
	}
	return out
}

// publish puts a new IPNS record and provides its value.
func (o *overlay) publish(ctx context.Context) (cid.Cid, error) {
	o.seq++
	folder := cas.Sum(cid.DagProtobuf, fmt.Appendf(nil, "folder %d", o.seq))
	record, err := p2p.NewRecord(o.key, folder, o.seq, time.Now().Add(time.Hour), time.Minute)
	if err != nil {
		return folder, err
	}
	return folder, errors.Join(o.nodes[0].PutIPNS(ctx, o.name, record), o.nodes[0].Provide(ctx, folder))
}

// lookups makes lookups one after the other, each with a new client. Meanwhile leave nodes
// close, evenly distributed; the publisher stays.
func (o *overlay) lookups(ctx context.Context, times, leave int, folder cid.Cid) (found []lookup, failed int) {
	stay := len(o.nodes) - leave
	for i := range times {
		for len(o.nodes)-stay > leave-leave*(i+1)/times {
			last := len(o.nodes) - 1
			go o.nodes[last].Close()
			o.nodes = o.nodes[:last]
		}
		l, err := o.lookup(ctx, folder)
		if err != nil {
			failed++
			continue
		}
		found = append(found, l)
	}
	return found, failed
}

// lookup does what a machine does when it boots: resolve the record, find a provider.
func (o *overlay) lookup(ctx context.Context, folder cid.Cid) (l lookup, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	client, err := p2p.New(ctx, p2p.Options{Transports: []p2p.Transport{o.net.client}, DHT: p2p.DHTClient, Prefix: dhtPrefix, Bootstrap: o.bootstrapPeers(2)})
	if err != nil {
		return l, err
	}
	defer client.Close()
	begun := time.Now()
	first, stop := watch(ctx)
	record, err := client.GetIPNS(first, o.name)
	l.resolve = time.Since(begun)
	one := stop()
	if err != nil {
		return l, err
	}
	got, seq, err := p2p.CheckRecord(o.name, record)
	if err != nil || seq != o.seq || !got.Equals(folder) {
		return l, fmt.Errorf("record %d of %s, want %d: %w", seq, got, o.seq, err)
	}
	begun = time.Now()
	second, stop := watch(ctx)
	_, ok := <-client.FindProviders(second, folder)
	l.find = time.Since(begun)
	two := stop()
	if !ok {
		return l, errors.New("no provider")
	}
	l.hops, l.queried = max(one.hops, two.hops), one.queried+two.queried
	return l, nil
}

// A queryTrace is the length and the number of queries of a DHT lookup.
type queryTrace struct{ hops, queried int }

// watch records the DHT queries of a context until stop is called.
func watch(ctx context.Context) (_ context.Context, stop func() queryTrace) {
	ctx, cancel := context.WithCancel(ctx)
	ctx, events := routing.RegisterForQueryEvents(ctx)
	done := make(chan queryTrace, 1)
	go func() {
		var t queryTrace
		known := map[peer.ID]int{} // length of the chain of queries that ends with this peer
		for e := range events {
			depth := max(known[e.ID], 1)
			switch e.Type {
			case routing.SendingQuery:
				t.queried++
			case routing.PeerResponse:
				t.hops = max(t.hops, depth)
				for _, p := range e.Responses {
					if known[p.ID] == 0 {
						known[p.ID] = depth + 1
					}
				}
			}
		}
		done <- t
	}()
	return ctx, func() queryTrace { cancel(); return <-done }
}

// A point is a row of the table: medians and 95th percentiles.
type point struct {
	nodes         int
	resolve, find [2]time.Duration
	hops, queried [2]int
	found         int
}

func summary(n int, found []lookup) point {
	p := point{nodes: n, found: len(found)}
	for i, at := range []int{50, 95} {
		p.resolve[i] = percentileOf(found, at, func(l lookup) time.Duration { return l.resolve })
		p.find[i] = percentileOf(found, at, func(l lookup) time.Duration { return l.find })
		p.hops[i] = percentileOf(found, at, func(l lookup) int { return l.hops })
		p.queried[i] = percentileOf(found, at, func(l lookup) int { return l.queried })
	}
	return p
}

func (p point) print(leave, failed int, each time.Duration, left int) {
	name := fmt.Sprint(p.nodes)
	if leave > 0 {
		name = fmt.Sprintf("%d, while %d leave", p.nodes, leave)
	}
	pair := func(d [2]time.Duration) string {
		return fmt.Sprintf("%d %d ms", d[0].Milliseconds(), d[1].Milliseconds())
	}
	fmt.Printf("  %-22s %19s %19s %11s %11s %7d %6d ms %9.1f\n", name, pair(p.resolve), pair(p.find), fmt.Sprint(p.hops[0], " ", p.hops[1]),
		fmt.Sprint(p.queried[0], " ", p.queried[1]), failed, each.Milliseconds(), float64(residentBytes())/(1<<20)/float64(left))
}

// ownCPU returns the processor time of this process, which runs all nodes and clients.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// residentBytes returns the resident memory of this process.
func residentBytes() int64 {
	runtime.GC()
	var pages, ours int64
	fmt.Sscan(strings.TrimSpace(read("/proc/self/statm")), &pages, &ours)
	return ours * int64(os.Getpagesize())
}
