package repo

import (
	"fmt"
	"time"

	"github.com/phaseboot/phaseboot/manifest"
)

const (
	// clockSkew is how far the clocks of two publishers of one repository may differ.
	clockSkew = 10 * time.Minute
	// maxOff is how long after its expiry a timestamp is renewed without a question about
	// the clock. A publisher is seldom off for longer.
	maxOff = 7 * 24 * time.Hour
)

// ErrClock says that nothing is signed because the clock contradicts what is published.
var ErrClock = fmt.Errorf("%w: the clock contradicts what is published", manifest.ErrUntrusted)

// CheckClock compares the clock with the dates of what is published. It returns ErrClock
// for a date of signing in the future, and for an expiry more than a week ago. Nothing
// published (nil), and what a replaced online key signed, agree with every clock.
func (r *Repo) CheckClock(p *Published, now time.Time) error {
	if p == nil || r.KeyReplaced(p) {
		return nil
	}
	signed, expired := manifest.SignedAt(p.timestamp), p.timestamp.Signed.Expires
	switch {
	case signed.Sub(now) > clockSkew:
		return fmt.Errorf("clock: it is %s here, and the published timestamp was signed at %s, %s later (%w): this clock is behind, or it was ahead when that was signed; set it right, or use --ignore-clock: the next timestamp will not be dated before the last one",
			date(now), date(signed), days(signed.Sub(now)), ErrClock)
	case now.Sub(expired) > maxOff:
		return fmt.Errorf("clock: it is %s here, and the published timestamp expired at %s, %s ago (%w): is this clock ahead? set it right, or use --ignore-clock if nothing was published for so long",
			date(now), date(expired), days(now.Sub(expired)), ErrClock)
	}
	return nil
}

func date(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// days writes a duration in days or, below two, in hours and minutes.
func days(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	return d.Truncate(time.Minute).String()
}

// signingTime is the date of the next signatures: now, but never before the last
// timestamp, whose date a machine may have taken as its lower bound of time.
func signingTime(base *Published, now time.Time) time.Time {
	if base.timestamp == nil {
		return now
	}
	if last := manifest.SignedAt(base.timestamp); last.After(now) {
		return last
	}
	return now
}

// A ClockStart is the wall clock and the uptime of the machine when a daemon started.
type ClockStart struct {
	Wall   time.Time
	Uptime time.Duration
}

// CheckJump returns ErrClock when the wall clock has gone ahead by more than a week beyond
// the uptime since the start.
func (s ClockStart) CheckJump(now time.Time, uptime time.Duration) error {
	jump := now.Round(0).Sub(s.Wall.Round(0)) - (uptime - s.Uptime)
	if jump <= maxOff {
		return nil
	}
	return fmt.Errorf("clock: it was set %s ahead while this daemon ran, to %s (%w): nothing is signed with it; set it right, or start phase-publish serve again", days(jump), date(now), ErrClock)
}
