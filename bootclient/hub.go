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

const maxGreetings = 64 // connections that are made at the same time

// A hub is the list of sources that are known, which only grows.
type hub struct {
	http  *http.Client // for the plain HTTP of peers
	web   *http.Client // for mirrors
	node  *p2p.Node    // nil when the mode needs no peer-to-peer
	times *timings

	strangers *strangers

	mu      sync.Mutex
	sources []*source
	mirrors map[string]bool            // URLs of sources
	addrs   map[peer.ID]*peer.AddrInfo // of sources and strangers
	more    chan struct{}              // closed and replaced when a source is added or opened
}

// newHub returns a hub without sources, which asks mirrors through web.
func newHub(web *http.Client, times *timings) *hub {
	return &hub{
		http: gateway.NewHTTP(nil), web: web, times: times, strangers: newStrangers(),
		mirrors: map[string]bool{}, addrs: map[peer.ID]*peer.AddrInfo{}, more: make(chan struct{}),
	}
}

// known returns the sources of this moment and a channel that is closed when there
// are more, or one more is open.
func (h *hub) known() ([]*source, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.sources), h.more
}

// mirror adds a gateway by its URL. The source's name is the URL without user and password.
func (h *hub) mirror(url string) {
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

// peer adds a peer that a person or root.json named as a source, and one that was found
// as a stranger; or more addresses of one that is known.
func (h *hub) peer(kind string, info peer.AddrInfo) {
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
		delete(h.addrs, h.strangers.add(kind, info))
		return
	}
	h.add(newSource(kind, info.ID.String(), func(ctx context.Context) ([]*way, error) {
		return h.dialPeer(ctx, info.ID)
	}))
}

func (h *hub) add(s *source) {
	s.times = h.times
	h.sources = append(h.sources, s)
	h.signal()
}

func (h *hub) signal() {
	close(h.more)
	h.more = make(chan struct{})
}

// greet opens every source, as it becomes known, until ctx ends.
func (h *hub) greet(ctx context.Context) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	if h.node != nil {
		tasks.Go(func() { h.meet(ctx) })
	}
	slots := make(chan struct{}, maxGreetings)
	greeted := 0
	for {
		list, more := h.known()
		for _, s := range list[greeted:] {
			tasks.Go(func() { h.greetOne(ctx, s, slots) })
		}
		greeted = len(list)
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

func (h *hub) greetOne(ctx context.Context, s *source, slots chan struct{}) {
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

// dialPeer connects and returns the ways to a peer: the plain HTTP that it told us
// of first, the streams of the connection last. A peer without HTTP, such as a stock IPFS
// node, has one: Bitswap.
func (h *hub) dialPeer(ctx context.Context, id peer.ID) ([]*way, error) {
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
func (h *hub) stats() []SourceStats {
	list, _ := h.known()
	var out []SourceStats
	for _, s := range list {
		if st := s.snapshot(); st.Address != "" || len(st.Faults) > 0 {
			out = append(out, st)
		}
	}
	return out
}
