package bootclient

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

// Kinds of sources, as the report names them.
const (
	kindCache     = "cache"
	kindMirror    = "mirror"
	kindPeer      = "peer"
	kindBootstrap = "bootstrap"
	kindMDNS      = "mdns"
	kindDHT       = "dht"
)

const (
	maxFaults  = 16                     // kept of one source
	firstPause = 100 * time.Millisecond // after a transport error, doubled each time
	maxPause   = 5 * time.Second
	failing    = 4 // transport errors in a row after which nobody counts on a source
)

// A source is one mirror or peer. It may be reached in several ways (plain HTTP,
// HTTP over streams); they share its counters and its ban. It is a cas.Source.
type source struct {
	kind string
	key  string // mirror URL or peer ID
	dial func(ctx context.Context) ([]*way, error)

	opening chan struct{} // holds one token: one goroutine dials at a time
	banned  chan struct{} // closed by ban

	mu       sync.Mutex
	ways     []*way // best first; empty until dialled
	stats    SourceStats
	fails    int       // transport errors in a row
	lastErr  error     // of the last one
	pauseEnd time.Time // nothing is asked before
	verdict  error     // why it was banned
}

// A way is one transport to a source.
type way struct {
	name   string
	client *gateway.Client
}

func newSource(kind, key string, dial func(ctx context.Context) ([]*way, error)) *source {
	return &source{
		kind: kind, key: key, dial: dial,
		opening: make(chan struct{}, 1), banned: make(chan struct{}),
		stats: SourceStats{Name: key, Kind: kind},
	}
}

func (s *source) String() string { return s.kind + " " + clean(s.key) }

// open dials the source unless it is open already.
func (s *source) open(ctx context.Context) error {
	_, err := s.reach(ctx)
	return err
}

func (s *source) reach(ctx context.Context) ([]*way, error) {
	select {
	case s.opening <- struct{}{}:
		defer func() { <-s.opening }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w: %w", s, cas.ErrUnreachable, ctx.Err())
	}
	s.mu.Lock()
	ways := slices.Clone(s.ways)
	s.mu.Unlock()
	if len(ways) > 0 {
		return ways, nil
	}
	ways, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ways = ways
	s.stats.Address = ways[0].name
	return slices.Clone(ways), nil
}

// Block asks the source, by its best way first. What comes is not verified.
func (s *source) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	return s.ask(ctx, func(g *gateway.Client) ([]byte, error) { return g.Block(ctx, c) })
}

// record asks for the newest record of an IPNS name.
func (s *source) record(ctx context.Context, name string) ([]byte, error) {
	return s.ask(ctx, func(g *gateway.Client) ([]byte, error) { return g.IPNS(ctx, name) })
}

func (s *source) ask(ctx context.Context, get func(*gateway.Client) ([]byte, error)) ([]byte, error) {
	ways, err := s.reach(ctx)
	if err != nil {
		return nil, err
	}
	var lost error
	for _, w := range ways {
		data, err := get(w.client)
		if err == nil || !errors.Is(err, cas.ErrUnreachable) || ctx.Err() != nil {
			return data, err
		}
		if lost != nil {
			err = fmt.Errorf("%w; then %w", lost, err)
		}
		lost = err
		s.demote(w)
	}
	return nil, lost
}

// demote puts a way behind the others.
func (s *source) demote(w *way) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.ways, w); i >= 0 && len(s.ways) > 1 {
		s.ways = append(slices.Delete(s.ways, i, i+1), w)
		s.stats.Address = s.ways[0].name
	}
}

// gave counts a verified block.
func (s *source) gave(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Blocks++
	s.stats.Bytes += int64(n)
	s.fails, s.pauseEnd = 0, time.Time{}
}

// failed counts a transport error and sets the pause before the next attempt.
func (s *source) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.pauseEnd) {
		return // one outage, seen by several requests
	}
	s.fails++
	s.lastErr = err
	s.pauseEnd = time.Now().Add(min(firstPause<<min(s.fails-1, 10), maxPause))
	s.fault(err)
}

// note keeps an error for the words of tried, without counting it as a fault.
func (s *source) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr = err
}

// ban ends the use of a source that sent wrong bytes.
func (s *source) ban(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.verdict != nil {
		return
	}
	s.verdict = fmt.Errorf("%s: %w", s, err)
	s.stats.Banned = true
	s.fault(err)
	close(s.banned)
}

func (s *source) fault(err error) {
	words := clean(err.Error())
	if len(s.stats.Faults) < maxFaults && !slices.Contains(s.stats.Faults, words) {
		s.stats.Faults = append(s.stats.Faults, words)
	}
}

// state is what others need to know before they ask.
func (s *source) state() (open, isFailing bool, wait time.Duration, verdict error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ways) > 0, s.fails >= failing, time.Until(s.pauseEnd), s.verdict
}

func (s *source) isBanned() bool {
	select {
	case <-s.banned:
		return true
	default:
		return false
	}
}

// lastError is why the source is banned, or its last transport error.
func (s *source) lastError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.verdict != nil {
		return s.verdict
	}
	return s.lastErr
}

func (s *source) snapshot() SourceStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stats
	out.Faults = slices.Clone(out.Faults)
	return out
}
