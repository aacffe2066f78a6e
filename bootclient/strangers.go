package bootclient

import (
	"cmp"
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	manet "github.com/multiformats/go-multiaddr/net"
)

const (
	maxStrangers  = 16384           // that wait to be dialled
	maxFound      = 256             // of them that may become sources
	maxPerIP      = 64              // of these at one address
	strangerDials = 32              // under way
	strangerLimit = 3 * time.Second // for one of them
	strangerPause = time.Second     // before one is dialled again, doubled
)

// Strangers are peers that mDNS or the DHT named and that nobody has reached yet. Anybody
// can invent any number of them. So they become sources only once they answer, and those
// are dialled first that were dialled the least, at the addresses where the fewest dials
// came to nothing: ten thousand invented ones delay an honest one and do not keep it out.
type strangers struct {
	mu      sync.Mutex
	waiting map[peer.ID]*stranger
	vain    map[netip.Addr]int // dials that came to nothing
	reached map[netip.Addr]int
	found   int
	order   int
	more    chan struct{} // told when there is one to dial
	lastErr error
}

type stranger struct {
	id       peer.ID
	kind     string
	ip       netip.Addr
	tries    int
	order    int
	due      time.Time
	dialling bool
}

func newStrangers() *strangers {
	return &strangers{waiting: map[peer.ID]*stranger{}, vain: map[netip.Addr]int{}, reached: map[netip.Addr]int{}, more: make(chan struct{}, 1)}
}

// add takes a peer in. When there are too many, one of those in the queue has to go; the
// name of that one is returned.
func (s *strangers) add(kind string, info peer.AddrInfo) (gone peer.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) >= maxStrangers {
		gone = s.evict()
	}
	s.order++
	s.waiting[info.ID] = &stranger{id: info.ID, kind: kind, ip: ipOf(info), order: s.order}
	s.tell()
	return gone
}

func (s *strangers) tell() {
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// evict drops one of a few, taken at random, that was dialled the most often in vain.
func (s *strangers) evict() peer.ID {
	var worst *stranger
	looked := 0
	for _, c := range s.waiting { // maps begin anywhere
		if !c.dialling && (worst == nil || c.tries > worst.tries) {
			worst = c
		}
		if looked++; looked == 64 && worst != nil {
			break
		}
	}
	if worst == nil {
		return ""
	}
	delete(s.waiting, worst.id)
	return worst.id
}

// next takes the one to dial now. Without one, wait is how long until there may be.
func (s *strangers) next(now time.Time) (best *stranger, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait = time.Hour
	for _, c := range s.waiting {
		switch {
		case c.dialling:
		case c.due.After(now):
			wait = min(wait, c.due.Sub(now))
		case best == nil || s.before(c, best):
			best = c
		}
	}
	if best != nil {
		best.dialling = true
		best.tries++
		s.vain[best.ip]++ // until it answers
	}
	return best, wait
}

func (s *strangers) before(a, b *stranger) bool {
	return cmp.Or(cmp.Compare(a.tries, b.tries), cmp.Compare(s.vain[a.ip], s.vain[b.ip]), cmp.Compare(b.order, a.order)) < 0
}

// done ends the dialling of one. It reports whether it may become a source.
func (s *strangers) done(c *stranger, err error, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.dialling = false
	if err == nil {
		s.vain[c.ip]--
		if s.found < maxFound && s.reached[c.ip] < maxPerIP {
			s.found++
			s.reached[c.ip]++
			delete(s.waiting, c.id)
			return true
		}
	} else {
		s.lastErr = err
	}
	pause := strangerPause << min(c.tries-1, 5)
	c.due = now.Add(pause/2 + rand.N(pause))
	s.tell()
	return false
}

// none reports whether all who were named have answered.
func (s *strangers) none() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiting) == 0
}

func (s *strangers) lastError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastErr
}

// ipOf is the address by which a peer is counted.
func ipOf(info peer.AddrInfo) netip.Addr {
	for _, a := range info.Addrs {
		if ip, err := manet.ToIP(a); err == nil {
			addr, _ := netip.AddrFromSlice(ip)
			return addr.Unmap()
		}
	}
	return netip.Addr{}
}

// meet dials strangers until ctx ends.
func (h *hub) meet(ctx context.Context) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	slots := make(chan struct{}, strangerDials)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		c, wait := h.strangers.next(time.Now())
		if c == nil {
			<-slots
			select {
			case <-h.strangers.more:
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
			continue
		}
		tasks.Go(func() {
			defer func() { <-slots }()
			h.meetOne(ctx, c)
		})
	}
}

func (h *hub) meetOne(ctx context.Context, c *stranger) {
	dctx, cancel := context.WithTimeout(ctx, strangerLimit)
	defer cancel()
	ways, err := h.dialPeer(dctx, c.id)
	if !h.strangers.done(c, err, time.Now()) {
		return
	}
	s := newSource(c.kind, c.id.String(), func(ctx context.Context) ([]*way, error) { return h.dialPeer(ctx, c.id) })
	s.opened(ways)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.add(s)
}
