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
	"github.com/phaseboot/phaseboot/internal/p2p"
)

const (
	dhtPrefix   = "/phaseboot/bench"
	dhtConns    = 128              // connections of a node
	dhtOneIP    = 1 << 12          // all of them may come from one address here
	dhtSettles  = 90 * time.Second // for the routing tables to fill, and then for their upkeep to rest
	lookupLimit = 30 * time.Second // after which a lookup has failed
	leaving     = 5                // one node of so many leaves
)

// A crowd of DHT nodes in this process, on wires. The first is the publisher.
type overlay struct {
	nodes []*p2p.Node
	wires *wires
	key   ed25519.PrivateKey
	name  string
	seq   uint64
}

// A lookup is what a machine that boots pays for the newest record and one provider.
type lookup struct {
	resolve, find time.Duration
	hops          int // peers one after the other, each known from the one before
	asked         int // peers in all
}

// dht grows a DHT and looks things up in it, first in peace and then while a fifth of
// its nodes leave.
func (t *tool) dht(ctx context.Context) error {
	o, err := newOverlay()
	if err != nil {
		return err
	}
	defer o.close()
	fmt.Printf("  nodes in one process, on connections inside it; %d lookups each, by clients that enter through two random nodes\n", t.lookups)
	fmt.Printf("  %-22s %19s %19s %11s %11s %7s %9s %9s\n", "nodes", "record (p50 p95)", "provider (p50 p95)", "hops", "asked", "failed", "CPU each", "MiB/node")
	var peace, storm []point
	for _, n := range t.nodes {
		if err := o.grow(ctx, n); err != nil {
			return err
		}
		for _, leave := range []int{0, n / leaving} {
			folder, err := o.publish(ctx)
			if err != nil {
				return err
			}
			before := spentHere()
			found, failed := o.lookups(ctx, t.lookups, leave, folder)
			each := (spentHere() - before) / time.Duration(t.lookups)
			if ctx.Err() != nil || len(found) == 0 {
				return fmt.Errorf("%d nodes: no lookup succeeded: %w", n, ctx.Err())
			}
			p := summary(n, found)
			p.print(leave, failed, each, len(o.nodes))
			if leave == 0 {
				peace = append(peace, p)
			} else {
				storm = append(storm, p)
			}
		}
		if err := t.draw(peace, storm); err != nil {
			return err
		}
	}
	return nil
}

// draw writes the plot of what there is so far: a large DHT takes long.
func (t *tool) draw(peace, storm []point) error {
	if t.svg == "" {
		return nil
	}
	return os.WriteFile(t.svg, plot(peace, storm), 0o644)
}

func newOverlay() (*overlay, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	name, err := p2p.Name(key.Public().(ed25519.PublicKey))
	return &overlay{wires: newWires(), key: key, name: name}, err
}

func (o *overlay) close() {
	var all sync.WaitGroup
	for _, n := range o.nodes {
		all.Go(func() { n.Close() })
	}
	all.Wait()
}

// grow adds nodes until there are n, each through three that are there, and returns
// when every routing table has found its neighbours and they have done with that.
func (o *overlay) grow(ctx context.Context, n int) error {
	listen := []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/127.0.0.1/udp/0/quic-v1")}
	for len(o.nodes) < n {
		node, err := p2p.New(ctx, p2p.Options{
			Transports: []p2p.Transport{o.wires.server}, Listen: listen, DHT: p2p.DHTServer, Prefix: dhtPrefix, Bootstrap: o.some(3), MaxConns: dhtConns, MaxConnsPerIP: dhtOneIP,
		})
		if err != nil {
			return err
		}
		o.nodes = append(o.nodes, node)
	}
	enough := min(n-1, 20) / 2
	for end := time.Now().Add(dhtSettles); ; time.Sleep(100 * time.Millisecond) {
		lonely := 0
		for _, node := range o.nodes {
			if node.DHTPeers() < enough {
				lonely++
			}
		}
		switch {
		case lonely == 0 || ctx.Err() != nil:
			rest(ctx)
			return ctx.Err()
		case time.Now().After(end) && lonely > n/20:
			return fmt.Errorf("%d nodes: %d of them know less than %d others after %s", n, lonely, enough, dhtSettles)
		case time.Now().After(end):
			fmt.Printf("  %d of %d nodes know less than %d others after %s\n", lonely, n, enough, dhtSettles)
			return nil
		}
	}
}

// rest waits until this process has little to do: new nodes refresh their tables for a
// while, and lookups would wait for them.
func rest(ctx context.Context) {
	const look = 500 * time.Millisecond
	for end := time.Now().Add(dhtSettles); time.Now().Before(end) && ctx.Err() == nil; {
		before := spentHere()
		time.Sleep(look)
		if spentHere()-before < look/4 {
			return
		}
	}
}

// some are random nodes to enter through.
func (o *overlay) some(n int) []peer.AddrInfo {
	var out []peer.AddrInfo
	for _, i := range mrand.Perm(len(o.nodes))[:min(n, len(o.nodes))] {
		if infos, err := peer.AddrInfosFromP2pAddrs(o.nodes[i].Addrs()...); err == nil {
			out = append(out, infos...)
		}
	}
	return out
}

// publish puts a new record and provides what it points to.
func (o *overlay) publish(ctx context.Context) (cid.Cid, error) {
	o.seq++
	folder := cas.Sum(cid.DagProtobuf, fmt.Appendf(nil, "folder %d", o.seq))
	record, err := p2p.NewRecord(o.key, folder, o.seq, time.Now().Add(time.Hour), time.Minute)
	if err != nil {
		return folder, err
	}
	return folder, errors.Join(o.nodes[0].PutIPNS(ctx, o.name, record), o.nodes[0].Provide(ctx, folder))
}

// lookups are by clients one after the other. Between them leave nodes leave, spread
// evenly and without a word; never the publisher.
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

// lookup is what one machine does when it boots.
func (o *overlay) lookup(ctx context.Context, folder cid.Cid) (l lookup, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	client, err := p2p.New(ctx, p2p.Options{Transports: []p2p.Transport{o.wires.client}, DHT: p2p.DHTClient, Prefix: dhtPrefix, Bootstrap: o.some(2)})
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
	l.hops, l.asked = max(one.hops, two.hops), one.asked+two.asked
	return l, nil
}

// A trail is the way that a search took.
type trail struct{ hops, asked int }

// watch follows the searches of a context until stop is called.
func watch(ctx context.Context) (_ context.Context, stop func() trail) {
	ctx, cancel := context.WithCancel(ctx)
	ctx, events := routing.RegisterForQueryEvents(ctx)
	done := make(chan trail, 1)
	go func() {
		var t trail
		known := map[peer.ID]int{} // how many peers one asks to learn of this one, it among them
		for e := range events {
			depth := max(known[e.ID], 1)
			switch e.Type {
			case routing.SendingQuery:
				t.asked++
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
	return ctx, func() trail { cancel(); return <-done }
}

// A point is a row of the table: medians, and what 95 of 100 do not exceed.
type point struct {
	nodes         int
	resolve, find [2]time.Duration
	hops, asked   [2]int
	found         int
}

func summary(n int, found []lookup) point {
	p := point{nodes: n, found: len(found)}
	for i, at := range []int{50, 95} {
		p.resolve[i] = percentileOf(found, at, func(l lookup) time.Duration { return l.resolve })
		p.find[i] = percentileOf(found, at, func(l lookup) time.Duration { return l.find })
		p.hops[i] = percentileOf(found, at, func(l lookup) int { return l.hops })
		p.asked[i] = percentileOf(found, at, func(l lookup) int { return l.asked })
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
		fmt.Sprint(p.asked[0], " ", p.asked[1]), failed, each.Milliseconds(), float64(resident())/(1<<20)/float64(left))
}

// spentHere is the processor time of this process: of nodes and clients alike.
func spentHere() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resident is the memory of this process in bytes.
func resident() int64 {
	runtime.GC()
	var pages, ours int64
	fmt.Sscan(strings.TrimSpace(read("/proc/self/statm")), &pages, &ours)
	return ours * int64(os.Getpagesize())
}
