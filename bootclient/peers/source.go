package peers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/semaphore"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

// Kinds of sources in the report.
const (
	KindMirror    = "mirror"
	KindPeer      = "peer"
	KindBootstrap = "bootstrap"
	KindMDNS      = "mdns"
	kindDHT       = "dht"
)

// failingAfter is the number of transport errors in a row after which a source counts as failing. It
// is still asked.
const failingAfter = 4

// A Source is one mirror or peer. It may have several endpoints (plain HTTP, HTTP over
// streams), which share its counters and its ban. It is a cas.Source.
type Source struct {
	times *timing.Table

	Kind string
	Key  string // mirror URL or peer ID
	dial func(ctx context.Context) ([]*Endpoint, error)

	Heard bool // a mirror that a DHCP server named; it is set before the first use

	opening *semaphore.Weighted // one goroutine dials at a time
	banC    chan struct{}       // closed when it is banned

	NoRuns  atomic.Bool // it does not send runs
	Repeats atomic.Bool // it sends the inner nodes with every run
	Gaps    atomic.Bool // it supports gaps between the leaves of a run

	noRanges    atomic.Bool  // it does not send ranges of files
	emptyRanges atomic.Int32 // ranges in a row that ended before their first leaf

	mu          sync.Mutex
	endpoints   []*Endpoint // best first; empty until dialled; never changed, only replaced
	stats       report.SourceStats
	failures    int       // transport errors in a row
	lastErr     error     // the last error
	silentSince time.Time // when the first unanswered request was made, zero after an answer
	pauseEnd    time.Time // no request before this
	slow        bool      // it has kept a request waiting since its last block
	banReason   error     // why it was banned
}

// An Endpoint is one transport to a source. Every endpoint sends single blocks. A gateway also
// sends runs, IPNS records and bitfields.
type Endpoint struct {
	Name      string
	Blocks    cas.Source
	gateway   *gateway.Client // nil when it is none
	addresses []string        // where it takes boot reports, if it does: a URL, or multiaddrs with /p2p/ID
}

// GatewayEndpoint returns the endpoint of a gateway.
func GatewayEndpoint(name string, g *gateway.Client) *Endpoint {
	return &Endpoint{Name: name, Blocks: g, gateway: g, addresses: []string{g.Base}}
}

// NewSource returns a source that is not dialled yet. key is a URL or a peer ID.
func NewSource(kind, key string, dial func(ctx context.Context) ([]*Endpoint, error)) *Source {
	return &Source{
		times: &timing.Usual, Kind: kind, Key: key, dial: dial,
		opening: semaphore.NewWeighted(1), banC: make(chan struct{}),
		stats: report.SourceStats{Name: key, Kind: kind},
	}
}

// String names the source for the report.
func (s *Source) String() string { return s.Kind + " " + report.Clean(s.Key) }

// IsPeer reports whether the source has a peer ID, so that it may be a peer of the swarm.
func (s *Source) IsPeer() bool { return s.Kind != KindMirror && !s.BlocksOnly() }

// BlocksOnly reports whether the source sends single blocks and nothing else, as a stock IPFS
// node does. It is a source of last resort.
func (s *Source) BlocksOnly() bool {
	e := s.best()
	return e != nil && e.gateway == nil
}

// best returns the endpoint that is tried first, or nil until the source is dialled.
func (s *Source) best() *Endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.endpoints) == 0 {
		return nil
	}
	return s.endpoints[0]
}

// redial dials the source unless it is open. A source of single blocks is dialled again, because
// a publisher that starts may serve blocks first. It reports whether there are better endpoints.
func (s *Source) redial(ctx context.Context) (better bool, err error) {
	if !s.BlocksOnly() {
		_, err := s.open(ctx)
		return err == nil, err
	}
	endpoints, err := s.dial(ctx)
	if err != nil || endpoints[0].gateway == nil {
		return false, nil // the old endpoints stay
	}
	s.SetEndpoints(endpoints)
	return true, nil
}

func (s *Source) open(ctx context.Context) ([]*Endpoint, error) {
	if err := s.opening.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", s, cas.ErrUnreachable, err)
	}
	defer s.opening.Release(1)
	s.mu.Lock()
	endpoints := s.endpoints
	s.mu.Unlock()
	if len(endpoints) > 0 {
		return endpoints, nil
	}
	endpoints, err := s.dial(ctx)
	if err == nil {
		s.SetEndpoints(endpoints)
	}
	return endpoints, err
}

// SetEndpoints makes the source an open one. endpoints are not empty, the best is first.
func (s *Source) SetEndpoints(endpoints []*Endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endpoints, s.stats.Address = endpoints, endpoints[0].Name
}

// Block requests a block at the best endpoint first. The result is not verified.
func (s *Source) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	var data []byte
	err := s.request(ctx, func(e *Endpoint) (err error) {
		data, err = e.Blocks.Block(ctx, c)
		return err
	})
	return data, err
}

// HasDelivered reports whether the source has sent a correct block.
func (s *Source) HasDelivered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats.Blocks > 0
}

// RoundTrip is the shortest time to the first byte of an answer, 0 while unknown.
func (s *Source) RoundTrip() time.Duration {
	if e := s.best(); e != nil && e.gateway != nil {
		return e.gateway.RoundTrip()
	}
	return 0
}

// Have requests the bitfield of an artifact; see gateway.Client.Have.
func (s *Source) Have(ctx context.Context, root cid.Cid, leaves int, etag string) (bitmap []byte, tag string, err error) {
	err = s.request(ctx, func(e *Endpoint) (err error) {
		if e.gateway == nil {
			return fs.ErrNotExist
		}
		bitmap, tag, err = e.gateway.Have(ctx, root, leaves, etag)
		return err
	})
	return bitmap, tag, err
}

// Record requests the newest record of an IPNS name.
func (s *Source) Record(ctx context.Context, name string) ([]byte, error) {
	var rec []byte
	err := s.request(ctx, func(e *Endpoint) (err error) {
		if e.gateway == nil {
			return fmt.Errorf("%w: it sends blocks only", cas.ErrUnreachable)
		}
		rec, err = e.gateway.IPNS(ctx, name)
		return err
	})
	return rec, err
}

// request tries the endpoints of the source until one answers. "Not found" and "busy" are answers.
func (s *Source) request(ctx context.Context, try func(*Endpoint) error) error {
	s.mu.Lock()
	if s.silentSince.IsZero() {
		s.silentSince = time.Now()
	}
	s.mu.Unlock()
	err := s.tryEndpoints(ctx, try)
	if err == nil || !errors.Is(err, cas.ErrUnreachable) || isBusy(err) {
		s.mu.Lock()
		s.silentSince = time.Time{}
		s.mu.Unlock()
	}
	return err
}

func (s *Source) tryEndpoints(ctx context.Context, try func(*Endpoint) error) error {
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

func isBusy(err error) bool {
	var busy *gateway.BusyError
	return errors.As(err, &busy)
}

// isDial reports whether a connection could not be opened, so that no request was sent.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// demote moves an endpoint behind the others.
func (s *Source) demote(e *Endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.endpoints, e); i >= 0 {
		s.endpoints = slices.Concat(s.endpoints[:i], s.endpoints[i+1:], []*Endpoint{e})
		s.stats.Address = s.endpoints[0].Name
	}
}

// Delivered counts a verified block.
func (s *Source) Delivered(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Blocks++
	s.stats.Bytes += int64(n)
	s.failures, s.lastErr, s.pauseEnd, s.slow = 0, nil, time.Time{}, false
}

// RecordError records an error of the source. Wrong bytes ban it, a lost connection pauses it, and a
// busy source is asked again after the time that it named, without a fault. It reports whether
// the source was banned now.
func (s *Source) RecordError(ctx context.Context, err error) (bannedNow bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var busy *gateway.BusyError
	switch now := time.Now(); {
	case errors.Is(err, cas.ErrCorrupt) && s.banReason != nil:
	case errors.Is(err, cas.ErrCorrupt):
		s.banReason = fmt.Errorf("%s: %w", s, err)
		s.stats.Banned = true
		s.stats.AddFault(err)
		close(s.banC)
		return true
	case ctx.Err() != nil:
	case errors.As(err, &busy):
		s.lastErr = err
		s.pauseEnd = now.Add(s.times.RetryAfter(busy.After))
	case errors.Is(err, cas.ErrUnreachable) && !now.Before(s.pauseEnd): // else it is another request of the same outage
		s.failures++
		s.lastErr = err
		s.pauseEnd = now.Add(timing.Growing(s.times.FailFirst, s.failures-1, s.times.FailMax))
		s.stats.AddFault(err)
	}
	return false
}

// addFault counts a fault that is no reason to ask the source less.
func (s *Source) addFault(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.AddFault(err)
}

// MarkSlow records that the source kept a request waiting. With words, that is a fault.
func (s *Source) MarkSlow(words string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow = true
	if words != "" {
		s.stats.AddFault(errors.New(words))
	}
}

// NoteError keeps an error for the status, without counting it as a fault.
func (s *Source) NoteError(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr = err
	if s.silentSince.IsZero() && errors.Is(err, cas.ErrUnreachable) && !isBusy(err) {
		s.silentSince = time.Now()
	}
}

// Named reports whether a person or root.json named the source.
func (s *Source) Named() bool { return s.Kind != KindMDNS && s.Kind != kindDHT && !s.Heard }

// status describes the last error of the source, and how long it was not reached or has not answered.
func (s *Source) status() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	quiet := ""
	if since := now.Sub(s.silentSince); !s.silentSince.IsZero() && since >= time.Second {
		quiet = fmt.Sprintf("no answer for %s from ", since.Round(time.Second))
		if isDial(s.lastErr) { // a refused connection is an answer
			quiet = fmt.Sprintf("not reached for %s: ", since.Round(time.Second))
		}
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

// A State is what a caller has to know of a source before a request.
type State struct {
	Open      bool          // it was dialled
	Failing   bool          // the last requests ended with transport errors
	Slow      bool          // it has kept a request waiting since its last block
	Pause     time.Duration // no request during this time
	BanReason error         // nil: not banned
}

// MayAsk reports whether a request may be made now.
func (st State) MayAsk() bool { return st.Open && st.Pause <= 0 && st.BanReason == nil }

// Works reports whether the source is expected to answer, perhaps after a pause.
func (st State) Works() bool { return st.Open && !st.Failing && st.BanReason == nil }

// State returns the present state.
func (s *Source) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return State{len(s.endpoints) > 0, s.failures >= failingAfter, s.slow, max(0, time.Until(s.pauseEnd)), s.banReason}
}

// Banned returns a channel that is closed when the source is banned.
func (s *Source) Banned() <-chan struct{} { return s.banC }

// IsBanned reports whether the source is banned.
func (s *Source) IsBanned() bool {
	select {
	case <-s.banC:
		return true
	default:
		return false
	}
}

// LastError is why the source is banned, or its last error, with its name.
func (s *Source) LastError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.banReason != nil || s.lastErr == nil || strings.HasPrefix(s.lastErr.Error(), s.String()) {
		return cmp.Or(s.banReason, s.lastErr)
	}
	return fmt.Errorf("%s: %w", s, s.lastErr)
}

func (s *Source) snapshot() report.SourceStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stats
	out.Faults = slices.Clone(out.Faults)
	return out
}
