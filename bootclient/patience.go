package bootclient

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

// A standing is what a source is worth to those who wait.
type standing int

const (
	outOfReach standing = iota // it has not answered, or not to the point: it may yet
	refused                    // what it sent is provably of no use
	noSource                   // it cannot answer this question, and nobody waits for it
)

// settled reports whether a search or a fetch may end before its time. This is the rule of
// docs/PATIENCE.md: every known source was refused, and none is merely out of reach. Where
// mDNS or the DHT may find others, they get a while since calm, when something was last
// learnt; and since anybody may speak there, what strangers send ends nothing by itself: a
// source that a person or root.json named must be among the refused.
func (d *discovery) settled(calm time.Time, stand func(*source) standing) bool {
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
	return named && d.sources.candidates.none() && time.Since(calm) >= d.cfg.times.settle
}

// banned is the standing of a source in a fetch.
func banned(s *source) standing {
	switch {
	case s.isBanned():
		return refused
	case s.kind == kindBootstrap && errors.Is(s.lastError(), p2p.ErrNoSource):
		return noSource
	}
	return outOfReach
}

// patience is how long a fetch waits for its next block: Config.Patience. When all known
// sources were refused, and mDNS or the DHT may bring another, it waits as long as a search.
func (d *discovery) patience() time.Duration {
	known, _ := d.sources.known()
	if slices.ContainsFunc(known, func(s *source) bool { return banned(s) == outOfReach }) {
		return d.cfg.Patience
	}
	return min(d.cfg.Timeout, d.cfg.Patience)
}

// A vigil is the wait of a fetch for its next block, of which it tells who watches.
type vigil struct {
	times *timings
	say   func(format string, args ...any)

	mu   sync.Mutex
	last time.Time // when a block came in, or the fetch began
	told time.Time // when it was last said that none does
}

func newVigil(cfg Config) *vigil {
	return &vigil{times: cfg.times, say: cfg.Report.Say, last: time.Now()}
}

// came notes that a block came in.
func (v *vigil) came(now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if now.After(v.last) {
		v.last = now
	}
}

// waits returns for how long no block came in. After a while it says so, and again after
// each longer while, in the words of tried.
func (v *vigil) waits(now time.Time, tried func() string) time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	since := now.Sub(v.last)
	pause := v.times.sayAgain
	if v.told.Before(v.last) {
		pause = v.times.sayAfter
	}
	if since >= v.times.sayAfter && now.Sub(v.told) >= pause {
		v.told = now
		v.say("fetch: no block for %s: %s", since.Round(time.Second), tried())
	}
	return since
}

// inVain is the error of a fetch whose patience is over: wrong bytes that somebody sent, or
// what was heard from those who are still waited for.
func (d *discovery) inVain(since time.Duration, why error) error {
	switch since = since.Round(time.Second); {
	case why == nil:
		why = fmt.Errorf("%w: sources answer, but no block has come in", cas.ErrUnreachable)
	case errors.Is(why, cas.ErrCorrupt):
		return fmt.Errorf("%w; no other source gave the block in %s (%s)", why, since, d.tried())
	case errors.Is(why, fs.ErrNotExist):
	default:
		why = cas.ErrUnreachable // what each source said is in tried
	}
	return fmt.Errorf("no block for %s: %w (%s)", since, why, d.tried())
}

// rank orders errors by how much they tell: untrusted, corrupt, not there, out of reach.
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

// worse is the one of two errors that tells more, the first of two that tell as much.
func worse(a, b error) error {
	if rank(b) > rank(a) {
		return b
	}
	return a
}
