package publisher

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/manifest"
)

const (
	// clockSkew is how far the clocks of two publishers of one repository may differ.
	clockSkew = 10 * time.Minute
	// longOff is how long after its expiry a timestamp may be renewed before the clock is
	// doubted: longer than a publisher is usually off.
	longOff = 7 * 24 * time.Hour
)

// errClock is the reason of a refusal to sign with a clock that contradicts what is published.
var errClock = fmt.Errorf("%w: the clock contradicts what is published", manifest.ErrUntrusted)

// checkClock compares the clock with the dates of what is published: a date of signing that is
// still to come, or an expiry that is more than a week ago. nil for p checks nothing.
func checkClock(p *published, now time.Time) error {
	if p == nil {
		return nil
	}
	signed, expired := manifest.SignedAt(p.timestamp), p.timestamp.Signed.Expires
	switch {
	case signed.Sub(now) > clockSkew:
		return fmt.Errorf("clock: it is %s here, and the published timestamp was signed at %s, %s later (%w): this clock is behind, or it was ahead when that was signed; set it right, or use --ignore-clock: the next timestamp will not be dated before the last one",
			date(now), date(signed), span(signed.Sub(now)), errClock)
	case now.Sub(expired) > longOff:
		return fmt.Errorf("clock: it is %s here, and the published timestamp expired at %s, %s ago (%w): is this clock ahead? set it right, or use --ignore-clock if nothing was published for so long",
			date(now), date(expired), span(now.Sub(expired)), errClock)
	}
	return nil
}

func date(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// span is a duration in days or, below two, in hours and minutes.
func span(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	return d.Truncate(time.Minute).String()
}

// signingTime is the date of the next signatures: the clock's, and never before that of the
// last timestamp. A machine may have taken that one for the time.
func signingTime(prev *published, now time.Time) time.Time {
	if prev == nil {
		return now
	}
	if last := manifest.SignedAt(prev.timestamp); last.After(now) {
		return last
	}
	return now
}

// uptime is the time since the machine was started, the time that it slept included. No
// change of the clock moves it.
func uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// A clockWatch finds a clock that was set far ahead while a daemon runs.
type clockWatch struct {
	wall time.Time     // at the start
	up   time.Duration // then
}

// jumped returns an error when the clock went ahead by more than a week beyond the time that
// has passed since the start.
func (w clockWatch) jumped(now time.Time, up time.Duration) error {
	jump := now.Round(0).Sub(w.wall.Round(0)) - (up - w.up)
	if jump <= longOff {
		return nil
	}
	return fmt.Errorf("clock: it was set %s ahead while this daemon ran, to %s (%w): nothing is signed with it; set it right, or start phase-publish serve again", span(jump), date(now), errClock)
}
