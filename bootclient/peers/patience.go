package peers

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

// A Standing says whether a search or a fetch waits for a source (docs/PATIENCE.md).
type Standing int

const (
	OutOfReach Standing = iota // no answer, or a useless one; a later one may be good
	Refused                    // it sent something provably wrong
	NotASource                 // it cannot answer this request, and is not waited for
)

// Settled reports whether a search or a fetch may end early. This is the rule of
// docs/PATIENCE.md: every known source was refused, and none is merely out of reach. While
// mDNS or the DHT may find more sources, timing.Table.Settle must have passed since lastNews too,
// and a source that a person or root.json named must be among the refused:
// any machine can announce peers on a network, so a refused peer alone ends nothing.
func (d *Discovery) Settled(lastNews time.Time, stand func(*Source) Standing) bool {
	known, _ := d.Sources.Known()
	named := false
	for _, s := range known {
		switch stand(s) {
		case OutOfReach:
			return false
		case Refused:
			named = named || s.Named()
		}
	}
	if !d.Network {
		return true
	}
	return named && d.Sources.candidates.none() && time.Since(lastNews) >= d.Times.Settle
}

// FetchStanding returns the standing of a source in a fetch.
func FetchStanding(s *Source) Standing {
	switch {
	case s.IsBanned():
		return Refused
	case s.Kind == KindBootstrap && errors.Is(s.LastError(), p2p.ErrNoSource):
		return NotASource
	}
	return OutOfReach
}

// BlockPatience returns how long a fetch waits for its next block: Config.Patience. It is at most
// Config.Timeout when all known sources were refused and only a new one can help.
func (d *Discovery) BlockPatience() time.Duration {
	known, _ := d.Sources.Known()
	if slices.ContainsFunc(known, func(s *Source) bool { return FetchStanding(s) == OutOfReach }) {
		return d.Options.Patience
	}
	return min(d.Timeout, d.Options.Patience)
}

// A StallTimer measures how long no block arrived during a fetch, and reports it on the console.
type StallTimer struct {
	disc *Discovery

	mu       sync.Mutex
	last     time.Time // when the last block arrived, or the fetch began
	reported time.Time // when the wait was last reported
}

// NewStallTimer starts a timer that reports to the console of d.
func NewStallTimer(d *Discovery) *StallTimer {
	return &StallTimer{disc: d, last: time.Now()}
}

// BlockArrived restarts the timer.
func (t *StallTimer) BlockArrived(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.After(t.last) {
		t.last = now
	}
}

// Check returns how long no block arrived. It reports a wait after timing.Table.SayAfter, and then
// every SayAgain, with the status of the sources.
func (t *StallTimer) Check(now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	since, times := now.Sub(t.last), t.disc.Times
	pause := times.SayAgain
	if t.reported.Before(t.last) {
		pause = times.SayAfter
	}
	if since >= times.SayAfter && now.Sub(t.reported) >= pause {
		t.reported = now
		t.disc.Report.Say("fetch: no block for %s: %s", since.Round(time.Second), t.disc.Status())
	}
	return since
}

// NoBlockError is the error of a fetch whose patience is over. It wraps the worst error: wrong bytes,
// then unreachable, unless every source said "not found".
func (d *Discovery) NoBlockError(since time.Duration, why error) error {
	switch since = since.Round(time.Second); {
	case why == nil:
		why = fmt.Errorf("%w: sources answer, but no block arrived", cas.ErrUnreachable)
	case errors.Is(why, cas.ErrCorrupt):
		return fmt.Errorf("%w; no other source sent the block within %s (%s)", why, since, d.Status())
	case errors.Is(why, fs.ErrNotExist):
	default:
		why = cas.ErrUnreachable // the status has the error of each source
	}
	return fmt.Errorf("no block for %s: %w (%s)", since, why, d.Status())
}

// Rank orders errors by severity: untrusted, corrupt, not found, other, unreachable.
func Rank(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, manifest.ErrUntrusted):
		return 5
	case errors.Is(err, cas.ErrCorrupt), errors.Is(err, manifest.ErrMalformed):
		return 4
	case errors.Is(err, fs.ErrNotExist):
		return 3
	case errors.Is(err, cas.ErrUnreachable):
		return 1
	default:
		return 2
	}
}

// Worse returns the more severe of two errors, the first if they are equal.
func Worse(a, b error) error {
	if Rank(b) > Rank(a) {
		return b
	}
	return a
}
