package bootclient

import (
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

// desperate reports whether the sources of last resort are to be asked: nobody else is
// there, or nothing came from them for a while.
func (q *queue) desperate(now time.Time) bool {
	return now.Sub(q.last) > lastResort || !slices.ContainsFunc(q.seats, func(st *seat) bool {
		open, isFailing, _, verdict := st.src.state()
		return !st.src.last() && open && !isFailing && verdict == nil && !st.absent
	})
}

// hopeless reports whether none of the sources can give what is left, and the most
// telling reason: wrong bytes, no answers, or that nobody has it.
func (q *queue) hopeless(now time.Time) error {
	if len(q.jobs) > 0 || q.left == 0 {
		return nil
	}
	var wrong, lost, absent error
	for _, st := range q.seats {
		open, isFailing, _, verdict := st.src.state()
		switch {
		case verdict != nil:
			wrong = verdict
		case isFailing, !open && st.src.lastError() != nil:
			lost = st.src.lastError()
		case open && st.joined && st.member != nil && st.src.lastError() != nil && !q.hasWork(st, now):
			lost = st.src.lastError() // slow to answer, and asked again later
		case open && st.joined && (st.absent || !q.hasWork(st, now)):
			absent = fmt.Errorf("block %s: %w: no source of %d has it; ask the publisher to run phase-publish fsck", q.firstWaiting(), fs.ErrNotExist, len(q.seats))
		default:
			return nil
		}
	}
	switch {
	case wrong != nil:
		return wrong
	case lost == nil && absent != nil:
		return absent
	case lost != nil:
		return fmt.Errorf("block %s: %w: %w", q.firstWaiting(), cas.ErrUnreachable, lost)
	}
	return fmt.Errorf("block %s: %w: no source is known", q.firstWaiting(), cas.ErrUnreachable)
}

// hasWork reports whether the seat may be asked for anything that waits.
func (q *queue) hasWork(st *seat, now time.Time) bool {
	for k, p := range q.parts {
		if q.offer(st, k, p.waiting, now).next(0) >= 0 {
			return true
		}
	}
	return q.herd.shares(st)
}

// another reports whether somebody else can be asked in place of a seat.
func (q *queue) another(than *seat, now time.Time) bool {
	return slices.ContainsFunc(q.seats, func(st *seat) bool {
		open, isFailing, _, verdict := st.src.state()
		return st != than && open && !isFailing && verdict == nil && !st.absent && (st.member == nil || st.member.believed(now))
	})
}

func (q *queue) firstWaiting() string {
	for _, p := range q.parts {
		if i := p.waiting.next(0); i >= 0 {
			return p.leaves[i].CID.String()
		}
	}
	return "of none"
}
