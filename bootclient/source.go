package bootclient

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	maxFaults = 16 // kept of one source
	failing   = 4  // transport errors in a row after which nobody counts on a source; it is asked all the same
)

// A source is one mirror or peer. It may be reached in several ways (plain HTTP,
// HTTP over streams); they share its counters and its ban. It is a cas.Source.
type source struct {
	times *timings

	kind string
	key  string // mirror URL or peer ID
	dial func(ctx context.Context) ([]*way, error)

	opening chan struct{} // holds one token: one goroutine dials at a time
	banned  chan struct{} // closed by ban

	noRuns  atomic.Bool // it answered a run with something else
	repeats atomic.Bool // it sends inner nodes with every run
	gaps    atomic.Bool // it takes gaps between the leaves of a run

	mu       sync.Mutex
	ways     []*way // best first; empty until dialled
	stats    SourceStats
	fails    int       // transport errors in a row
	lastErr  error     // of the last one
	silent   time.Time // since when it has been asked without an answer, zero when it answers
	pauseEnd time.Time // nothing is asked before
	slow     bool      // it was waited for in vain since it last gave a block
	verdict  error     // why it was banned
}

// A way is one transport to a source. Every one gives single blocks; a gateway also
// gives runs of blocks, IPNS records and what a neighbour has.
type way struct {
	name    string
	blocks  cas.Source
	gateway *gateway.Client // nil when it is none
}

func gatewayWay(name string, g *gateway.Client) *way { return &way{name, g, g} }

func newSource(kind, key string, dial func(ctx context.Context) ([]*way, error)) *source {
	return &source{
		times: &usual, kind: kind, key: key, dial: dial,
		opening: make(chan struct{}, 1), banned: make(chan struct{}),
		stats: SourceStats{Name: key, Kind: kind},
	}
}

func (s *source) String() string { return s.kind + " " + clean(s.key) }

// isPeer reports whether the source has a peer ID: only then may it be a neighbour.
func (s *source) isPeer() bool { return s.kind != kindMirror && !s.last() }

// last reports whether the source is asked only when no other can serve: it gives single
// blocks and nothing else, as a stock IPFS node does.
func (s *source) last() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ways) > 0 && s.ways[0].gateway == nil
}

// improve dials the source unless it is open already, and one that gives single blocks only
// again: a publisher that starts may serve them before the rest. It reports whether there
// are better ways than before.
func (s *source) improve(ctx context.Context) (better bool, err error) {
	if !s.last() {
		_, err := s.reach(ctx)
		return err == nil, err
	}
	ways, err := s.dial(ctx)
	if err != nil || ways[0].gateway == nil {
		return false, nil // it is open as it was
	}
	s.opened(ways)
	return true, nil
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
	s.opened(ways)
	return slices.Clone(ways), nil
}

func (s *source) opened(ways []*way) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ways = slices.Clone(ways)
	s.stats.Address = ways[0].name
}

// Block asks the source, by its best way first. What comes is not verified.
func (s *source) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	var data []byte
	err := s.ask(ctx, func(w *way) (err error) {
		data, err = w.blocks.Block(ctx, c)
		return err
	})
	return data, err
}

// run asks for leaves of a file in one request; see gateway.Client.Run. A
// source that does not answer with a run is not asked for another.
func (s *source) run(ctx context.Context, root cid.Cid, leaves []cas.Leaf, take func(i int, data gateway.Loan) error) error {
	taken := 0
	err := s.ask(ctx, func(w *way) error {
		if w.gateway == nil {
			return gateway.ErrNoRuns
		}
		if taken > 0 {
			return errRestart
		}
		err := w.gateway.Run(ctx, root, leaves, func(i int, data gateway.Loan) error {
			taken++
			return take(i, data)
		})
		s.repeats.Store(w.gateway.RepeatsNodes())
		s.gaps.Store(w.gateway.TakesGaps())
		return err
	})
	if errors.Is(err, gateway.ErrNoRuns) || taken == 0 && errors.Is(err, fs.ErrNotExist) {
		s.noRuns.Store(true)
		return fmt.Errorf("%s: %w", s, gateway.ErrNoRuns)
	}
	return err
}

// errRestart says that a way is not tried, since another began and was cut short.
var errRestart = errors.New("cut short")

// givesRuns reports whether it is worth to ask the source for a run.
func (s *source) givesRuns() bool {
	if s.noRuns.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ways) > 0 && s.ways[0].gateway != nil
}

// roundTrip is the shortest time in which the source began to answer, 0 when it is not known.
func (s *source) roundTrip() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ways) == 0 || s.ways[0].gateway == nil {
		return 0
	}
	return s.ways[0].gateway.RoundTrip()
}

// have asks a neighbour which leaves it has; see gateway.Client.Have.
func (s *source) have(ctx context.Context, root cid.Cid, leaves int, etag string) (bitmap []byte, tag string, err error) {
	err = s.ask(ctx, func(w *way) (err error) {
		if w.gateway == nil {
			return fs.ErrNotExist
		}
		bitmap, tag, err = w.gateway.Have(ctx, root, leaves, etag)
		return err
	})
	return bitmap, tag, err
}

// record asks for the newest record of an IPNS name.
func (s *source) record(ctx context.Context, name string) ([]byte, error) {
	var rec []byte
	err := s.ask(ctx, func(w *way) (err error) {
		if w.gateway == nil {
			return fmt.Errorf("%w: it gives blocks only", cas.ErrUnreachable)
		}
		rec, err = w.gateway.IPNS(ctx, name)
		return err
	})
	return rec, err
}

// ask tries the ways of the source until one has an answer, be it no. One that is busy
// is so by every way.
func (s *source) ask(ctx context.Context, try func(*way) error) error {
	s.hush()
	err := s.askWays(ctx, try)
	if err == nil || !errors.Is(err, cas.ErrUnreachable) || isBusy(err) {
		s.heard()
	}
	return err
}

func (s *source) askWays(ctx context.Context, try func(*way) error) error {
	ways, err := s.reach(ctx)
	if err != nil {
		return err
	}
	var lost error
	for _, w := range ways {
		err := try(w)
		if errors.Is(err, errRestart) {
			return lost
		}
		if err == nil || !errors.Is(err, cas.ErrUnreachable) || ctx.Err() != nil || isBusy(err) {
			return err
		}
		if lost != nil {
			err = fmt.Errorf("%w; then %w", lost, err)
		}
		lost = err
		s.demote(w)
	}
	return lost
}

// hush begins to count how long the source does not answer.
func (s *source) hush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silent.IsZero() {
		s.silent = time.Now()
	}
}

// heard notes that the source answered, whatever it said.
func (s *source) heard() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = time.Time{}
}

func isBusy(err error) bool {
	var busy *gateway.BusyError
	return errors.As(err, &busy)
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
	s.fails, s.lastErr, s.pauseEnd, s.slow = 0, nil, time.Time{}, false
}

// blame keeps the books about an answer that was no bytes: wrong ones end the use of the
// source, a lost connection pauses it, and one that is busy is asked again when it said,
// and has done nothing wrong. It reports whether the source is to be named for it.
func (s *source) blame(ctx context.Context, err error) (named bool) {
	var busy *gateway.BusyError
	switch {
	case errors.Is(err, cas.ErrCorrupt):
		return s.ban(err)
	case ctx.Err() != nil:
	case errors.As(err, &busy):
		s.rest(busy.After, err)
	case errors.Is(err, cas.ErrUnreachable):
		s.failed(err)
	}
	return false
}

// rest lets a busy source be for as long as it asks, within reason.
func (s *source) rest(d time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr = err
	s.pauseEnd = time.Now().Add(s.times.retryAfter(d))
}

// late remembers that others had to be asked because this one did not answer, and, if
// there are words for it, tells the report.
func (s *source) late(words string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow = true
	if words != "" {
		s.fault(errors.New(words))
	}
}

func (s *source) isSlow() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slow
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
	s.pauseEnd = time.Now().Add(growing(s.times.failFirst, s.fails-1, s.times.failMax))
	s.fault(err)
}

// note keeps an error for the words of tried, without counting it as a fault.
func (s *source) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr = err
	if s.silent.IsZero() && errors.Is(err, cas.ErrUnreachable) && !isBusy(err) {
		s.silent = time.Now()
	}
}

// named reports whether a person or root.json named the source, and nobody else.
func (s *source) named() bool { return s.kind != kindMDNS && s.kind != kindDHT }

// story says what the source said last, and since when it says nothing.
func (s *source) story() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	quiet := ""
	if since := now.Sub(s.silent); !s.silent.IsZero() && since >= time.Second {
		quiet = fmt.Sprintf("no answer for %s from ", since.Round(time.Second))
	}
	err := s.lastErr
	if s.verdict != nil {
		quiet, err = "", s.verdict
	}
	if err == nil {
		return cmp.Or(quiet, "waits for ") + s.String()
	}
	words := fmt.Sprintf("%s%s: %s", quiet, s, strings.TrimPrefix(err.Error(), s.String()+": "))
	if wait := s.pauseEnd.Sub(now); s.verdict == nil && isBusy(err) && wait >= time.Second {
		words += fmt.Sprintf(", asked again in %s", wait.Round(time.Second))
	}
	return words
}

// ban ends the use of a source that sent wrong bytes; false when it had ended before.
func (s *source) ban(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.verdict != nil {
		return false
	}
	s.verdict = fmt.Errorf("%s: %w", s, err)
	s.stats.Banned = true
	s.fault(err)
	close(s.banned)
	return true
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

// lastError is why the source is banned, or what went wrong last, with its name.
func (s *source) lastError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.verdict != nil || s.lastErr == nil || strings.HasPrefix(s.lastErr.Error(), s.String()) {
		return cmp.Or(s.verdict, s.lastErr)
	}
	return fmt.Errorf("%s: %w", s, s.lastErr)
}

func (s *source) snapshot() SourceStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stats
	out.Faults = slices.Clone(out.Faults)
	return out
}
