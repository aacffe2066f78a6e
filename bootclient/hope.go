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
		open, isFailing, wait, verdict := st.src.state()
		switch {
		case verdict != nil:
			wrong = worse(wrong, verdict)
		case isFailing, (!open || wait > 0) && st.src.lastError() != nil:
			lost = st.src.lastError()
		case open && st.joined && st.member != nil && st.src.lastError() != nil && !q.hasWork(st, now):
			lost = st.src.lastError() // slow to answer, and asked again later
		case open && st.joined && (st.absent || !q.hasWork(st, now)):
			absent = fmt.Errorf("block %s: %w: no source of %d has it", q.firstWaiting(), fs.ErrNotExist, len(q.seats))
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

// lied is why a source was banned, nil when none was.
func (q *queue) lied() (err error) {
	for _, st := range q.seats {
		if _, _, _, verdict := st.src.state(); verdict != nil {
			err = worse(err, verdict)
		}
	}
	return err
}

// askAgain forgets what sources lacked when nothing else is to be had: a mirror may be about
// to get it. The pauses between two such times grow until a block comes in.
func (q *queue) askAgain(now time.Time) {
	since := q.last
	if q.forgot.After(since) {
		since = q.forgot
	} else {
		q.forgets = 0
	}
	if len(q.jobs) > 0 || now.Sub(since) < growing(q.times.lackFirst, q.forgets, q.times.lackMax) {
		return
	}
	q.forgot = now
	q.forgets++
	for _, st := range q.seats {
		st.lacks, st.nothing = make([]set, len(q.parts)), time.Time{}
	}
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
