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

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

// Kinds of sources in the report.
const (
	kindMirror    = "mirror"
	kindPeer      = "peer"
	kindBootstrap = "bootstrap"
	kindMDNS      = "mdns"
	kindDHT       = "dht"
)

// failingAfter is the number of transport errors in a row after which a source counts as failing. It
// is still asked.
const failingAfter = 4

// A source is one mirror or peer. It may have several endpoints (plain HTTP, HTTP over
// streams), which share its counters and its ban. It is a cas.Source.
type source struct {
	times *timing.Table

	kind string
	key  string // mirror URL or peer ID
	dial func(ctx context.Context) ([]*endpoint, error)

	opening chan struct{} // one token: one goroutine dials at a time
	banned  chan struct{} // closed by ban

	noRuns  atomic.Bool // it does not send runs
	repeats atomic.Bool // it sends the inner nodes with every run
	gaps    atomic.Bool // it supports gaps between the leaves of a run

	mu          sync.Mutex
	endpoints   []*endpoint // best first; empty until dialled
	stats       report.SourceStats
	failures    int       // transport errors in a row
	lastErr     error     // the last error
	silentSince time.Time // when the first unanswered request was made, zero after an answer
	pauseEnd    time.Time // no request before this
	slow        bool      // it has kept a request waiting since its last block
	banReason   error     // why it was banned
}

// An endpoint is one transport to a source. Every endpoint sends single blocks. A gateway also
// sends runs, IPNS records and bitfields.
type endpoint struct {
	name    string
	blocks  cas.Source
	gateway *gateway.Client // nil when it is none
}

func gatewayEndpoint(name string, g *gateway.Client) *endpoint { return &endpoint{name, g, g} }

func newSource(kind, key string, dial func(ctx context.Context) ([]*endpoint, error)) *source {
	return &source{
		times: &timing.Usual, kind: kind, key: key, dial: dial,
		opening: make(chan struct{}, 1), banned: make(chan struct{}),
		stats: report.SourceStats{Name: key, Kind: kind},
	}
}

func (s *source) String() string { return s.kind + " " + report.Clean(s.key) }

// isPeer reports whether the source has a peer ID, so that it may be a peer of the swarm.
func (s *source) isPeer() bool { return s.kind != kindMirror && !s.blocksOnly() }

// blocksOnly reports whether the source sends single blocks and nothing else, as a stock IPFS
// node does. It is a source of last resort.
func (s *source) blocksOnly() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.endpoints) > 0 && s.endpoints[0].gateway == nil
}

// redial dials the source unless it is open. A source of single blocks is dialled again, because
// a publisher that starts may serve blocks first. It reports whether there are better endpoints.
func (s *source) redial(ctx context.Context) (better bool, err error) {
	if !s.blocksOnly() {
		_, err := s.open(ctx)
		return err == nil, err
	}
	endpoints, err := s.dial(ctx)
	if err != nil || endpoints[0].gateway == nil {
		return false, nil // the old endpoints stay
	}
	s.setEndpoints(endpoints)
	return true, nil
}

func (s *source) open(ctx context.Context) ([]*endpoint, error) {
	select {
	case s.opening <- struct{}{}:
		defer func() { <-s.opening }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w: %w", s, cas.ErrUnreachable, ctx.Err())
	}
	s.mu.Lock()
	endpoints := slices.Clone(s.endpoints)
	s.mu.Unlock()
	if len(endpoints) > 0 {
		return endpoints, nil
	}
	endpoints, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	s.setEndpoints(endpoints)
	return slices.Clone(endpoints), nil
}

func (s *source) setEndpoints(endpoints []*endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endpoints = slices.Clone(endpoints)
	s.stats.Address = endpoints[0].name
}

// Block requests a block at the best endpoint first. The result is not verified.
func (s *source) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	var data []byte
	err := s.request(ctx, func(e *endpoint) (err error) {
		data, err = e.blocks.Block(ctx, c)
		return err
	})
	return data, err
}

// getRun requests leaves of a file in one request; see gateway.Client.Run. If the source does not
// answer with a run, it gets no such request again.
func (s *source) getRun(ctx context.Context, root cid.Cid, leaves []cas.Leaf, take func(i int, data gateway.RunLeaf) error) error {
	taken := 0
	err := s.request(ctx, func(e *endpoint) error {
		if e.gateway == nil {
			return gateway.ErrNoRuns
		}
		if taken > 0 {
			return errRestart
		}
		err := e.gateway.Run(ctx, root, leaves, func(i int, data gateway.RunLeaf) error {
			taken++
			return take(i, data)
		})
		s.repeats.Store(e.gateway.RepeatsNodes())
		s.gaps.Store(e.gateway.TakesGaps())
		return err
	})
	if errors.Is(err, gateway.ErrNoRuns) || taken == 0 && errors.Is(err, fs.ErrNotExist) {
		s.noRuns.Store(true)
		return fmt.Errorf("%s: %w", s, gateway.ErrNoRuns)
	}
	return err
}

// errRestart says that an endpoint is not tried, because another one sent a part of the run.
var errRestart = errors.New("cut short")

// givesRuns reports whether runs may be requested from the source.
func (s *source) givesRuns() bool {
	if s.noRuns.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.endpoints) > 0 && s.endpoints[0].gateway != nil
}

// roundTrip is the shortest time to the first byte of an answer, 0 while unknown.
func (s *source) roundTrip() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.endpoints) == 0 || s.endpoints[0].gateway == nil {
		return 0
	}
	return s.endpoints[0].gateway.RoundTrip()
}

// have requests the bitfield of an artifact; see gateway.Client.Have.
func (s *source) have(ctx context.Context, root cid.Cid, leaves int, etag string) (bitmap []byte, tag string, err error) {
	err = s.request(ctx, func(e *endpoint) (err error) {
		if e.gateway == nil {
			return fs.ErrNotExist
		}
		bitmap, tag, err = e.gateway.Have(ctx, root, leaves, etag)
		return err
	})
	return bitmap, tag, err
}

// record requests the newest record of an IPNS name.
func (s *source) record(ctx context.Context, name string) ([]byte, error) {
	var rec []byte
	err := s.request(ctx, func(e *endpoint) (err error) {
		if e.gateway == nil {
			return fmt.Errorf("%w: it sends blocks only", cas.ErrUnreachable)
		}
		rec, err = e.gateway.IPNS(ctx, name)
		return err
	})
	return rec, err
}

// request tries the endpoints of the source until one answers. "Not found" and "busy" are answers.
func (s *source) request(ctx context.Context, try func(*endpoint) error) error {
	s.requestBegins()
	err := s.tryEndpoints(ctx, try)
	if err == nil || !errors.Is(err, cas.ErrUnreachable) || isBusy(err) {
		s.answered()
	}
	return err
}

func (s *source) tryEndpoints(ctx context.Context, try func(*endpoint) error) error {
	endpoints, err := s.open(ctx)
	if err != nil {
		return err
	}
	var lost error
	for _, e := range endpoints {
		err := try(e)
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
		s.demote(e)
	}
	return lost
}

// requestBegins records when the source was first asked without an answer.
func (s *source) requestBegins() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silentSince.IsZero() {
		s.silentSince = time.Now()
	}
}

// answered records that the source answered, also with an error.
func (s *source) answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silentSince = time.Time{}
}

func isBusy(err error) bool {
	var busy *gateway.BusyError
	return errors.As(err, &busy)
}

// demote moves an endpoint behind the others.
func (s *source) demote(e *endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.endpoints, e); i >= 0 && len(s.endpoints) > 1 {
		s.endpoints = append(slices.Delete(s.endpoints, i, i+1), e)
		s.stats.Address = s.endpoints[0].name
	}
}

// delivered counts a verified block.
func (s *source) delivered(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Blocks++
	s.stats.Bytes += int64(n)
	s.failures, s.lastErr, s.pauseEnd, s.slow = 0, nil, time.Time{}, false
}

// recordError records an error of the source. Wrong bytes ban it, a lost connection pauses it, and a
// busy source is asked again after the time that it named, without a fault. It reports whether
// the source was banned now.
func (s *source) recordError(ctx context.Context, err error) (bannedNow bool) {
	var busy *gateway.BusyError
	switch {
	case errors.Is(err, cas.ErrCorrupt):
		return s.ban(err)
	case ctx.Err() != nil:
	case errors.As(err, &busy):
		s.pauseFor(busy.After, err)
	case errors.Is(err, cas.ErrUnreachable):
		s.connectionFailed(err)
	}
	return false
}

// pauseFor pauses a busy source for as long as it asked, within limits.
func (s *source) pauseFor(d time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr = err
	s.pauseEnd = time.Now().Add(s.times.RetryAfter(d))
}

// markSlow records that the source kept a request waiting. With words, that is a fault.
func (s *source) markSlow(words string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow = true
	if words != "" {
		s.stats.AddFault(errors.New(words))
	}
}

func (s *source) isSlow() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slow
}

// connectionFailed counts a transport error and sets the pause before the next request.
func (s *source) connectionFailed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.pauseEnd) {
		return // another request of the same outage
	}
	s.failures++
	s.lastErr = err
	s.pauseEnd = time.Now().Add(timing.Growing(s.times.FailFirst, s.failures-1, s.times.FailMax))
	s.stats.AddFault(err)
}

// noteError keeps an error for the status, without counting it as a fault.
func (s *source) noteError(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr = err
	if s.silentSince.IsZero() && errors.Is(err, cas.ErrUnreachable) && !isBusy(err) {
		s.silentSince = time.Now()
	}
}

// named reports whether a person or root.json named the source.
func (s *source) named() bool { return s.kind != kindMDNS && s.kind != kindDHT }

// status describes the last error of the source, and how long it has not answered.
func (s *source) status() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	quiet := ""
	if since := now.Sub(s.silentSince); !s.silentSince.IsZero() && since >= time.Second {
		quiet = fmt.Sprintf("no answer for %s from ", since.Round(time.Second))
	}
	err := s.lastErr
	if s.banReason != nil {
		quiet, err = "", s.banReason
	}
	if err == nil {
		return cmp.Or(quiet, "waiting for ") + s.String()
	}
	words := fmt.Sprintf("%s%s: %s", quiet, s, strings.TrimPrefix(err.Error(), s.String()+": "))
	if wait := s.pauseEnd.Sub(now); s.banReason == nil && isBusy(err) && wait >= time.Second {
		words += fmt.Sprintf(", asked again in %s", wait.Round(time.Second))
	}
	return words
}

// ban ends the use of a source that sent wrong bytes. It returns false if it was banned before.
func (s *source) ban(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.banReason != nil {
		return false
	}
	s.banReason = fmt.Errorf("%s: %w", s, err)
	s.stats.Banned = true
	s.stats.AddFault(err)
	close(s.banned)
	return true
}

// state returns whether the source is open, whether it fails all the time, the rest of its pause,
// and why it was banned.
func (s *source) state() (open, isFailing bool, wait time.Duration, banReason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.endpoints) > 0, s.failures >= failingAfter, time.Until(s.pauseEnd), s.banReason
}

func (s *source) isBanned() bool {
	select {
	case <-s.banned:
		return true
	default:
		return false
	}
}

// lastError is why the source is banned, or its last error, with its name.
func (s *source) lastError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.banReason != nil || s.lastErr == nil || strings.HasPrefix(s.lastErr.Error(), s.String()) {
		return cmp.Or(s.banReason, s.lastErr)
	}
	return fmt.Errorf("%s: %w", s, s.lastErr)
}

func (s *source) snapshot() report.SourceStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stats
	out.Faults = slices.Clone(out.Faults)
	return out
}
