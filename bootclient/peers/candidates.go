package peers

import (
	"cmp"
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/semaphore"

	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/internal/p2p"
)

const (
	maxCandidates  = 16384 // waiting for a dial
	maxFound       = 256   // candidates that become sources
	maxPerIP       = 64    // … at one IP address
	candidateDials = 32    // at the same time
)

// Candidates are peers that mDNS or the DHT announced and that were not reached yet. An
// attacker can announce any number of them. So a candidate becomes a source only when it
// answers, and the next to dial is the one with the fewest dials, at the IP address with the
// fewest failed dials: ten thousand invented candidates delay a real one, and do not keep it out.
type candidates struct {
	mu      sync.Mutex
	waiting map[peer.ID]*candidate
	failed  map[netip.Addr]int // dials that failed or are under way
	reached map[netip.Addr]int
	found   int
	order   int
	more    chan struct{} // receives when there is a candidate to dial
	lastErr error
}

type candidate struct {
	id       peer.ID
	kind     string
	ip       netip.Addr
	tries    int
	order    int
	due      time.Time
	dialling bool
}

func newCandidates() *candidates {
	return &candidates{waiting: map[peer.ID]*candidate{}, failed: map[netip.Addr]int{}, reached: map[netip.Addr]int{}, more: make(chan struct{}, 1)}
}

// add adds a candidate. When there are too many, one is evicted, and its peer ID is returned.
func (s *candidates) add(kind string, info peer.AddrInfo) (gone peer.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) >= maxCandidates {
		gone = s.evict()
	}
	s.order++
	s.waiting[info.ID] = &candidate{id: info.ID, kind: kind, ip: ipOf(info), order: s.order}
	s.tell()
	return gone
}

func (s *candidates) tell() {
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// evict removes the candidate with the most dials of 64 random ones.
func (s *candidates) evict() peer.ID {
	var worst *candidate
	looked := 0
	for _, c := range s.waiting { // a map iteration begins at a random entry
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

// next returns the candidate to dial now; without one, wait is the time until the next.
func (s *candidates) next(now time.Time) (best *candidate, wait time.Duration) {
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
		s.failed[best.ip]++ // until it answers
	}
	return best, wait
}

func (s *candidates) before(a, b *candidate) bool {
	return cmp.Or(cmp.Compare(a.tries, b.tries), cmp.Compare(s.failed[a.ip], s.failed[b.ip]), cmp.Compare(b.order, a.order)) < 0
}

// done ends a dial. It reports whether the candidate becomes a source.
func (s *candidates) done(c *candidate, err error, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.dialling = false
	if err == nil {
		s.failed[c.ip]--
		if s.found < maxFound && s.reached[c.ip] < maxPerIP {
			s.found++
			s.reached[c.ip]++
			delete(s.waiting, c.id)
			return true
		}
	} else {
		s.lastErr = err
	}
	pause := timing.CandidatePause << min(c.tries-1, 5)
	c.due = now.Add(pause/2 + rand.N(pause))
	s.tell()
	return false
}

// none reports whether every announced peer has been reached.
func (s *candidates) none() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiting) == 0
}

func (s *candidates) lastError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastErr
}

// ipOf is the IP address by which dials to a peer are counted.
func ipOf(info peer.AddrInfo) netip.Addr {
	for _, a := range info.Addrs {
		if ip, ok := p2p.IPOf(a); ok {
			return ip
		}
	}
	return netip.Addr{}
}

// dialCandidates dials candidates until ctx ends.
func (set *Set) dialCandidates(ctx context.Context) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	slots := semaphore.NewWeighted(candidateDials)
	for slots.Acquire(ctx, 1) == nil {
		c, wait := set.candidates.next(time.Now())
		if c == nil {
			slots.Release(1)
			select {
			case <-set.candidates.more:
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
			continue
		}
		tasks.Go(func() {
			defer slots.Release(1)
			set.dialCandidate(ctx, c)
		})
	}
}

func (set *Set) dialCandidate(ctx context.Context, c *candidate) {
	dctx, cancel := context.WithTimeout(ctx, timing.CandidateLimit)
	defer cancel()
	endpoints, err := set.dialPeer(dctx, c.id)
	if !set.candidates.done(c, err, time.Now()) {
		return
	}
	s := NewSource(c.kind, c.id.String(), func(ctx context.Context) ([]*Endpoint, error) { return set.dialPeer(ctx, c.id) })
	s.SetEndpoints(endpoints)
	set.mu.Lock()
	defer set.mu.Unlock()
	set.add(s)
}
