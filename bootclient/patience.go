package bootclient

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

// A standing says whether a search or a fetch waits for a source (docs/PATIENCE.md).
type standing int

const (
	outOfReach standing = iota // no answer, or a useless one; a later one may be good
	refused                    // it sent something provably wrong
	noSource                   // it cannot answer this request, and is not waited for
)

// settled reports whether a search or a fetch may end early. This is the rule of
// docs/PATIENCE.md: every known source was refused, and none is merely out of reach. While
// mDNS or the DHT may find more sources, timing.Table.Settle must have passed since lastNews too,
// and a source that a person or root.json named must be among the refused:
// anybody can announce peers on a network, so a refused peer alone ends nothing.
func (d *discovery) settled(lastNews time.Time, stand func(*source) standing) bool {
	known, _ := d.sources.known()
	named := false
	for _, s := range known {
		switch stand(s) {
		case outOfReach:
			return false
		case refused:
			named = named || s.named()
		}
	}
	if !d.network {
		return true
	}
	return named && d.sources.candidates.none() && time.Since(lastNews) >= d.times.Settle
}

// banned returns the standing of a source in a fetch.
func banned(s *source) standing {
	switch {
	case s.isBanned():
		return refused
	case s.kind == kindBootstrap && errors.Is(s.lastError(), p2p.ErrNoSource):
		return noSource
	}
	return outOfReach
}

// blockPatience returns how long a fetch waits for its next block: Config.Patience. It is at most
// Config.Timeout when all known sources were refused and only a new one can help.
func (d *discovery) blockPatience() time.Duration {
	known, _ := d.sources.known()
	if slices.ContainsFunc(known, func(s *source) bool { return banned(s) == outOfReach }) {
		return d.discoveryOptions.patience
	}
	return min(d.timeout, d.discoveryOptions.patience)
}

// A stallTimer measures how long no block arrived during a fetch, and reports it on the console.
type stallTimer struct {
	times *timing.Table
	say   func(format string, args ...any)

	mu       sync.Mutex
	last     time.Time // when the last block arrived, or the fetch began
	reported time.Time // when the wait was last reported
}

func newStallTimer(d *discovery) *stallTimer {
	return &stallTimer{times: d.times, say: d.report.Say, last: time.Now()}
}

// blockArrived restarts the timer.
func (t *stallTimer) blockArrived(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.After(t.last) {
		t.last = now
	}
}

// check returns how long no block arrived. It reports a wait after sayAfter, and then every
// sayAgain, with the given status of the sources.
func (t *stallTimer) check(now time.Time, tried func() string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	since := now.Sub(t.last)
	pause := t.times.SayAgain
	if t.reported.Before(t.last) {
		pause = t.times.SayAfter
	}
	if since >= t.times.SayAfter && now.Sub(t.reported) >= pause {
		t.reported = now
		t.say("fetch: no block for %s: %s", since.Round(time.Second), tried())
	}
	return since
}

// noBlock is the error of a fetch whose patience is over. It wraps the worst error: wrong bytes,
// then unreachable, unless every source said "not found".
func (d *discovery) noBlock(since time.Duration, why error) error {
	switch since = since.Round(time.Second); {
	case why == nil:
		why = fmt.Errorf("%w: sources answer, but no block arrived", cas.ErrUnreachable)
	case errors.Is(why, cas.ErrCorrupt):
		return fmt.Errorf("%w; no other source sent the block within %s (%s)", why, since, d.status())
	case errors.Is(why, fs.ErrNotExist):
	default:
		why = cas.ErrUnreachable // tried has the error of each source
	}
	return fmt.Errorf("no block for %s: %w (%s)", since, why, d.status())
}

// rank orders errors by severity: untrusted, corrupt, not found, other, unreachable.
func rank(err error) int {
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

// worse returns the more severe of two errors, the first if they are equal.
func worse(a, b error) error {
	if rank(b) > rank(a) {
		return b
	}
	return a
}
