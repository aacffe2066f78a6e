package bootclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
)

const maxDials = 64 // dials at the same time

// A sourceSet is the list of known sources, mirrors and peers. It only grows.
type sourceSet struct {
	http  *http.Client // for the plain HTTP of peers
	web   *http.Client // for mirrors
	node  *p2p.Node    // nil when the mode needs no peer-to-peer
	times *timings

	candidates *candidates

	mu      sync.Mutex
	sources []*source
	mirrors map[string]bool            // URLs of sources
	addrs   map[peer.ID]*peer.AddrInfo // of sources and candidates
	more    chan struct{}              // closed and replaced when a source is added or opened
}

// newSourceSet returns an empty set. web is the client for mirrors.
func newSourceSet(web *http.Client, times *timings) *sourceSet {
	return &sourceSet{
		http: gateway.NewHTTP(nil), web: web, times: times, candidates: newCandidates(),
		mirrors: map[string]bool{}, addrs: map[peer.ID]*peer.AddrInfo{}, more: make(chan struct{}),
	}
}

// known returns the sources of this moment and a channel that is closed when there
// are more, or one more is open.
func (h *sourceSet) known() ([]*source, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.sources), h.more
}

// mirror adds a gateway by its URL. The source's name is the URL without user and password.
func (h *sourceSet) mirror(url string) {
	base := mirrorKey(url)
	client := &gateway.Client{Base: base, HTTP: h.web, Idle: h.times.idle, Redirects: true}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mirrors[base] {
		return
	}
	h.mirrors[base] = true
	name := bootargs.Redact(base)
	h.add(newSource(kindMirror, name, func(context.Context) ([]*way, error) {
		if err := checkMirrorFolder(base); err != nil {
			return nil, err
		}
		return []*way{gatewayWay(name, client)}, nil
	}))
}

// peer adds a peer: as a source when a person or root.json named it, as a candidate when
// mDNS or the DHT announced it. For a known peer it adds the addresses.
func (h *sourceSet) peer(kind string, info peer.AddrInfo) {
	if h.node == nil || info.ID == h.node.ID() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if have, ok := h.addrs[info.ID]; ok {
		for _, a := range info.Addrs {
			if len(have.Addrs) < 32 && !slices.ContainsFunc(have.Addrs, a.Equal) {
				have.Addrs = append(slices.Clip(have.Addrs), a)
			}
		}
		return
	}
	h.addrs[info.ID] = &info
	if kind == kindMDNS || kind == kindDHT {
		delete(h.addrs, h.candidates.add(kind, info))
		return
	}
	h.add(newSource(kind, info.ID.String(), func(ctx context.Context) ([]*way, error) {
		return h.dialPeer(ctx, info.ID)
	}))
}

func (h *sourceSet) add(s *source) {
	s.times = h.times
	h.sources = append(h.sources, s)
	h.signal()
}

func (h *sourceSet) signal() {
	close(h.more)
	h.more = make(chan struct{})
}

// dialAll opens each source when it becomes known, until ctx ends.
func (h *sourceSet) dialAll(ctx context.Context) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	if h.node != nil {
		tasks.Go(func() { h.dialCandidates(ctx) })
	}
	slots := make(chan struct{}, maxDials)
	dialled := 0
	for {
		list, more := h.known()
		for _, s := range list[dialled:] {
			tasks.Go(func() { h.dial(ctx, s, slots) })
		}
		dialled = len(list)
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

func (h *sourceSet) dial(ctx context.Context, s *source, slots chan struct{}) {
	for n := 0; ; n++ {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		opened, err := s.improve(ctx)
		<-slots
		if err != nil {
			s.note(err)
		}
		if opened {
			h.mu.Lock()
			h.signal()
			h.mu.Unlock()
		}
		if err == nil && !s.last() {
			return
		}
		select {
		case <-time.After(growing(h.times.askFirst, n, h.times.askMax)):
		case <-ctx.Done():
			return
		}
	}
}

// dialPeer connects to a peer and returns the ways to request blocks from it: first the plain
// HTTP addresses that it announced, last the streams of the connection. A peer without HTTP,
// such as a stock IPFS node, has one way: Bitswap.
func (h *sourceSet) dialPeer(ctx context.Context, id peer.ID) ([]*way, error) {
	h.mu.Lock()
	info, ok := h.addrs[id]
	if !ok {
		h.mu.Unlock()
		return nil, fmt.Errorf("peer %s: %w: forgotten", id, cas.ErrUnreachable)
	}
	at := *info
	h.mu.Unlock()
	streams, err := h.node.Gateway(ctx, at)
	if errors.Is(err, p2p.ErrNoHTTP) {
		blocks, err := h.node.Blocks(ctx, at)
		return []*way{{name: "/p2p/" + id.String() + " (bitswap)", blocks: blocks}}, err
	}
	if err != nil {
		return nil, err
	}
	var ways []*way
	for _, base := range h.node.HTTPAddrs(id) {
		ways = append(ways, gatewayWay(base, &gateway.Client{Base: base, HTTP: h.http, Idle: h.times.idle}))
	}
	return append(ways, gatewayWay("/p2p/"+id.String()+" (streams)", streams)), nil
}

// stats returns the counters of all sources that were asked for anything.
func (h *sourceSet) stats() []SourceStats {
	list, _ := h.known()
	var out []SourceStats
	for _, s := range list {
		if st := s.snapshot(); st.Address != "" || len(st.Faults) > 0 {
			out = append(out, st)
		}
	}
	return out
}
