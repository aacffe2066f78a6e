package machine

import (
	"time"

	"github.com/phaseboot/phaseboot/bootclient/machine/menu"
)

const (
	// firstPause is the countdown after a failed attempt; it doubles with each further one, up to
	// maxPause.
	firstPause = time.Minute
	maxPause   = 10 * time.Minute
	// firstHurry is how long an attempt that the watcher began and that failed keeps the watcher from
	// beginning the next one; it doubles up to maxPause.
	firstHurry = 5 * time.Second
)

// waits counts attempts, and says how long the machine waits before the next one and what it does
// then.
type waits struct {
	failed  int // attempts without a person
	hurried int // of these, in a row, those that the watcher began
}

// A wait is the time after a failed attempt.
type wait struct {
	attempt   int // that failed
	countdown time.Duration
	notYet    time.Duration // the watcher begins no attempt before this
	atEnd     menu.Action
}

// fail counts a failed attempt. restartAfter is the number of failed attempts after which the machine
// restarts, 0 for never.
func (w *waits) fail(restartAfter int) wait {
	w.failed++
	next := wait{attempt: w.failed, countdown: doubled(firstPause, w.failed-1), atEnd: menu.Retry}
	if w.hurried > 0 {
		next.notYet = doubled(firstHurry, w.hurried-1)
	}
	if restartAfter > 0 && w.failed >= restartAfter {
		if next.atEnd = menu.Reboot; w.hurried > 0 {
			next.notYet = next.countdown + firstPause // a watcher that errs must not put the restart off for ever
		}
	}
	return next
}

// begin notes who began the next attempt: a person, the watcher, or the countdown.
func (w *waits) begin(person, watcher bool) {
	switch {
	case person:
		*w = waits{}
	case watcher:
		w.hurried++
	default:
		w.hurried = 0
	}
}

// doubled returns the pause after n pauses: first, doubled n times, at most maxPause.
func doubled(first time.Duration, n int) time.Duration {
	return min(first<<min(n, 16), maxPause)
}
