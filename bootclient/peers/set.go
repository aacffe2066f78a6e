package peers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/semaphore"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
)

const maxDials = 64 // dials at the same time

// A Set is the list of known sources, mirrors and peers. It only grows.
type Set struct {
	http  *http.Client // for plain HTTP of peers
	web   *http.Client // for mirrors
	Node  *p2p.Node    // nil when the mode needs no peers
	times *timing.Table

	candidates *candidates

	mu      sync.Mutex
	sources []*Source
	mirrors map[string]bool            // URLs of sources
	addrs   map[peer.ID]*peer.AddrInfo // of sources and candidates
	more    chan struct{}              // closed and replaced when a source is added or opened
}

// newSet returns an empty set. web is the client for mirrors, node may be nil.
func newSet(web *http.Client, node *p2p.Node, times *timing.Table) *Set {
	return &Set{
		http: gateway.NewHTTP(nil), web: web, Node: node, times: times, candidates: newCandidates(),
		mirrors: map[string]bool{}, addrs: map[peer.ID]*peer.AddrInfo{}, more: make(chan struct{}),
	}
}

// Known returns the present sources, and a channel that is closed when a source is added or
// opened. A nil set has none.
func (set *Set) Known() ([]*Source, <-chan struct{}) {
	if set == nil {
		return nil, nil
	}
	set.mu.Lock()
	defer set.mu.Unlock()
	return slices.Clone(set.sources), set.more
}

// Best returns the source that has sent most blocks, nil while there is none. A banned one does not count.
func (set *Set) Best() (best *Source) {
	list, _ := set.Known()
	most := int64(0)
	for _, s := range list {
		if n := s.snapshot().Blocks; n > most && !s.IsBanned() {
			most, best = n, s
		}
	}
	return best
}

// addMirror adds a gateway by its URL. The source's name is the URL without user and password. named
// is false if anybody on the network may have named it.
func (set *Set) addMirror(url string, named bool) {
	base := strings.TrimRight(url, "/") // so that both spellings are one mirror
	client := &gateway.Client{Base: base, HTTP: set.web, Idle: set.times.Idle, Redirects: true}
	set.mu.Lock()
	defer set.mu.Unlock()
	if set.mirrors[base] {
		return
	}
	set.mirrors[base] = true
	name := bootargs.Redact(base)
	source := NewSource(KindMirror, name, func(context.Context) ([]*Endpoint, error) {
		if err := checkMirrorFolder(base); err != nil {
			return nil, err
		}
		return []*Endpoint{GatewayEndpoint(name, client)}, nil
	})
	source.Heard = !named
	set.add(source)
}

// addPeer adds a peer: as a source when a person or root.json named it, as a candidate when
// mDNS or the DHT announced it. For a known peer it adds the addresses.
func (set *Set) addPeer(kind string, info peer.AddrInfo) {
	if set.Node == nil || info.ID == set.Node.ID() {
		return
	}
	set.mu.Lock()
	defer set.mu.Unlock()
	if have, ok := set.addrs[info.ID]; ok {
		for _, a := range info.Addrs {
			if len(have.Addrs) < 32 && !slices.ContainsFunc(have.Addrs, a.Equal) {
				have.Addrs = append(slices.Clip(have.Addrs), a)
			}
		}
		return
	}
	set.addrs[info.ID] = &info
	if kind == KindMDNS || kind == kindDHT {
		delete(set.addrs, set.candidates.add(kind, info))
		return
	}
	set.add(NewSource(kind, info.ID.String(), func(ctx context.Context) ([]*Endpoint, error) {
		return set.dialPeer(ctx, info.ID)
	}))
}

func (set *Set) add(s *Source) {
	s.times = set.times
	set.sources = append(set.sources, s)
	set.signal()
}

func (set *Set) signal() {
	close(set.more)
	set.more = make(chan struct{})
}

// dialAll dials each new source until ctx ends.
func (set *Set) dialAll(ctx context.Context) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	if set.Node != nil {
		tasks.Go(func() { set.dialCandidates(ctx) })
	}
	slots := semaphore.NewWeighted(maxDials)
	dialled := 0
	for {
		list, more := set.Known()
		for _, s := range list[dialled:] {
			tasks.Go(func() { set.dial(ctx, s, slots) })
		}
		dialled = len(list)
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

func (set *Set) dial(ctx context.Context, s *Source, slots *semaphore.Weighted) {
	for n := 0; slots.Acquire(ctx, 1) == nil; n++ {
		opened, err := s.redial(ctx)
		slots.Release(1)
		if err != nil {
			s.NoteError(err)
		}
		if opened {
			set.mu.Lock()
			set.signal()
			set.mu.Unlock()
		}
		if err == nil && !s.BlocksOnly() {
			return
		}
		select {
		case <-time.After(timing.Growing(set.times.AskFirst, n, set.times.AskMax)):
		case <-ctx.Done():
			return
		}
	}
}

// dialPeer connects to a peer and returns its endpoints: first the plain HTTP addresses that it
// announced, last the streams of the connection. A peer without HTTP, such as a stock IPFS
// node, has one endpoint: Bitswap.
func (set *Set) dialPeer(ctx context.Context, id peer.ID) ([]*Endpoint, error) {
	set.mu.Lock()
	info, ok := set.addrs[id]
	if !ok {
		set.mu.Unlock()
		return nil, fmt.Errorf("peer %s: %w: forgotten", id, cas.ErrUnreachable)
	}
	at := *info
	set.mu.Unlock()
	streams, err := set.Node.Gateway(ctx, at)
	if errors.Is(err, p2p.ErrNoHTTP) {
		blocks, err := set.Node.Bitswap(ctx, at)
		return []*Endpoint{{Name: "/p2p/" + id.String() + " (bitswap)", Blocks: blocks}}, err
	}
	if err != nil {
		return nil, err
	}
	var endpoints []*Endpoint
	for _, base := range set.Node.HTTPAddrs(id) {
		endpoints = append(endpoints, GatewayEndpoint(base, &gateway.Client{Base: base, HTTP: set.http, Idle: set.times.Idle}))
	}
	last := GatewayEndpoint("/p2p/"+id.String()+" (streams)", streams)
	last.addresses = streamAddresses(at)
	return append(endpoints, last), nil
}

// Stats returns the counters of all sources that were dialled or made faults.
func (set *Set) Stats() []report.SourceStats {
	list, _ := set.Known()
	var out []report.SourceStats
	for _, s := range list {
		if st := s.snapshot(); st.Address != "" || len(st.Faults) > 0 {
			out = append(out, st)
		}
	}
	return out
}

// ErrNoMirror says that the folder of a file:// mirror is missing. The mirror counts as
// unreachable, not as empty: the medium may be mounted later.
var ErrNoMirror = fmt.Errorf("%w: no such folder; check the path, or mount what holds it", cas.ErrUnreachable)

// checkMirrorFolder returns an error that wraps ErrNoMirror if base is a file:// URL without
// a folder behind it.
func checkMirrorFolder(base string) error {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "file" {
		return nil
	}
	switch _, err := os.Stat(u.Path + "/"); { // a file is an error too
	case errors.Is(err, fs.ErrNotExist):
		return ErrNoMirror
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNoMirror, err)
	}
	return nil
}
