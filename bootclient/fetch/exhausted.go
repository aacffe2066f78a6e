package fetch

import (
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
)

// needsLastResort reports whether the sources of last resort may be used: no other source
// is usable, or no block arrived for timing.LastResort.
func (q *queue) needsLastResort(now time.Time) bool {
	return now.Sub(q.lastLeaf) > timing.LastResort || !slices.ContainsFunc(q.sources, func(st *sourceState) bool {
		return !st.src.BlocksOnly() && st.src.State().Works() && !st.hasNothing
	})
}

// exhausted returns an error when no source can send any of the missing blocks. The error
// is the worst one: wrong bytes, then no answer, then "not found".
func (q *queue) exhausted(now time.Time) error {
	if len(q.jobs) > 0 || q.left == 0 {
		return nil
	}
	var wrong, lost, absent error
	for _, st := range q.sources {
		src, last := st.src.State(), st.src.LastError()
		switch {
		case src.BanReason != nil:
			wrong = peers.Worse(wrong, src.BanReason)
		case src.Failing, !src.MayAsk() && last != nil:
			lost = last
		case src.Open && st.ready && st.swarmPeer != nil && last != nil && !q.hasWork(st, now):
			lost = last // it is slow, and is asked again later
		case src.Open && st.ready && (st.hasNothing || !q.hasWork(st, now)):
			absent = fmt.Errorf("block %s: %w: no source of %d has it", q.firstWaiting(), fs.ErrNotExist, len(q.sources))
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

// bannedFor returns why a source was banned, nil when none was.
func (q *queue) bannedFor() (err error) {
	for _, st := range q.sources {
		err = peers.Worse(err, st.src.State().BanReason)
	}
	return err
}

// retryMissing forgets which blocks the sources lacked, when no request is under way: a mirror
// may receive them later. The pauses grow until a block arrives.
func (q *queue) retryMissing(now time.Time) {
	since := q.lastLeaf
	if q.missesForgotten.After(since) {
		since = q.missesForgotten
	} else {
		q.timesForgotten = 0
	}
	if len(q.jobs) > 0 || now.Sub(since) < timing.Growing(q.times.LackFirst, q.timesForgotten, q.times.LackMax) {
		return
	}
	q.missesForgotten = now
	q.timesForgotten++
	for _, st := range q.sources {
		st.lacks, st.pauseEnd = make([]bitfield, len(q.downloads)), time.Time{}
	}
}

// hasWork reports whether any waiting leaf may be requested from a source.
func (q *queue) hasWork(st *sourceState, now time.Time) bool {
	for _, dl := range q.downloads {
		if q.requestable(st, dl, dl.waiting, now).next(0) >= 0 {
			return true
		}
	}
	return q.swarm.shares(st)
}

// hasAlternative reports whether another source is usable.
func (q *queue) hasAlternative(than *sourceState, now time.Time) bool {
	return slices.ContainsFunc(q.sources, func(st *sourceState) bool {
		return st != than && st.src.State().Works() && !st.hasNothing && (st.swarmPeer == nil || st.swarmPeer.trusted(now))
	})
}

func (q *queue) firstWaiting() string {
	for at := range waiting(q.downloads) {
		return at.info().CID.String()
	}
	return "(none)"
}
