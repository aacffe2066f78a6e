package bootclient

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

// hedgeAfter is how long a leaf may be under way before an idle source is asked for
// it as well. It happens only when no other leaf is left to ask for.
const hedgeAfter = 250 * time.Millisecond

// A task is one leaf to fetch, and every place that it goes to.
type task struct {
	leaf   cas.Leaf
	places []place

	// The queue's lock guards the rest.
	running map[*source]context.CancelFunc
	lacking map[*source]bool // sources that said they do not have it
	since   time.Time        // of the oldest attempt under way
	done    bool
}

type place struct {
	target Target
	offset int64
}

// A queue hands leaves to whichever source is idle: a fast one asks more often and
// so gets more of them. When all are handed out, idle sources double the oldest.
type queue struct {
	mu      sync.Mutex
	changed *sync.Cond
	waiting []*task         // nobody asks for these now, in order of preference
	lacking map[*source]int // how many of the waiting ones a source said it lacks
	running map[*task]bool
	left    int       // tasks not done
	last    time.Time // of the last leaf that came in
	end     chan struct{}
}

func newQueue(tasks []*task) *queue {
	q := &queue{waiting: tasks, lacking: map[*source]int{}, running: map[*task]bool{}, left: len(tasks), last: time.Now(), end: make(chan struct{})}
	q.changed = sync.NewCond(&q.mu)
	for _, t := range tasks {
		t.running, t.lacking = map[*source]context.CancelFunc{}, map[*source]bool{}
	}
	if q.left == 0 {
		q.finish()
	}
	return q
}

// take waits for a leaf that s should be asked for. It returns nil when s has
// nothing more to do. The attempt must be ended by give.
func (q *queue) take(ctx context.Context, s *source) (*task, context.Context) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if q.ended() || ctx.Err() != nil || s.isBanned() {
			return nil, nil
		}
		t, wait := q.next(s)
		if t != nil {
			actx, cancel := context.WithCancel(ctx)
			if len(t.running) == 0 {
				t.since = time.Now()
			}
			t.running[s] = cancel
			q.running[t] = true
			return t, actx
		}
		if wait > 0 {
			timer := time.AfterFunc(wait, q.wake)
			q.changed.Wait()
			timer.Stop()
			continue
		}
		q.changed.Wait()
	}
}

// next picks for s: a waiting leaf that s may have, else the oldest one under way
// at a single other source. wait is how long until there may be one to double.
func (q *queue) next(s *source) (t *task, wait time.Duration) {
	if q.lacking[s] < len(q.waiting) {
		i := slices.IndexFunc(q.waiting, func(t *task) bool { return !t.lacking[s] })
		return q.unwait(i), 0
	}
	var oldest *task
	for t := range q.running {
		if t.running[s] == nil && !t.lacking[s] && len(t.running) < 2 && (oldest == nil || t.since.Before(oldest.since)) {
			oldest = t
		}
	}
	if oldest == nil {
		return nil, 0
	}
	if wait = hedgeAfter - time.Since(oldest.since); wait > 0 {
		return nil, wait
	}
	return oldest, 0
}

// unwait takes the i-th leaf from those that wait; mostly it is the first.
func (q *queue) unwait(i int) *task {
	t := q.waiting[i]
	copy(q.waiting[1:], q.waiting[:i])
	q.waiting = q.waiting[1:]
	for s := range t.lacking {
		q.lacking[s]--
	}
	return t
}

// wait puts a leaf back: to the front, or behind all others when somebody lacks it,
// for then the next one must not pass it over each time.
func (q *queue) wait(t *task) {
	at := 0
	if len(t.lacking) > 0 {
		at = len(q.waiting)
	}
	q.waiting = slices.Insert(q.waiting, at, t)
	for s := range t.lacking {
		q.lacking[s]++
	}
}

// give ends the attempt of s at t. It reports whether the bytes are the first to
// arrive: then they are the caller's to write, and settled must follow.
func (q *queue) give(s *source, t *task, err error) (first bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.changed.Broadcast()
	if cancel := t.running[s]; cancel != nil {
		cancel()
		delete(t.running, s)
	}
	if t.done {
		return false
	}
	if errors.Is(err, fs.ErrNotExist) {
		t.lacking[s] = true
	}
	if err == nil {
		t.done = true
		for _, cancel := range t.running {
			cancel()
		}
		delete(q.running, t)
		q.last = time.Now()
		return true
	}
	if len(t.running) == 0 {
		delete(q.running, t)
		q.wait(t)
	}
	return false
}

// settled counts a leaf that is in its places.
func (q *queue) settled() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.left--; q.left == 0 {
		q.finish()
	}
}

func (q *queue) wake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.changed.Broadcast()
}

// close lets everybody go who waits in take.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.finish()
}

func (q *queue) finish() {
	if !q.ended() {
		close(q.end)
	}
	q.changed.Broadcast()
}

// ended reports whether nothing is left, or the queue was closed.
func (q *queue) ended() bool {
	select {
	case <-q.end:
		return true
	default:
		return false
	}
}

// hopeless reports how long no leaf has come in, and whether none of the sources can
// be expected to give any that is left, as an error that says why.
func (q *queue) hopeless(sources []*source) (since time.Duration, why error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	since = time.Since(q.last)
	if len(q.running) > 0 || len(q.waiting) == 0 {
		return since, nil
	}
	t := q.waiting[0]
	var wrong, lost, absent error
	for _, s := range sources {
		_, isFailing, _, verdict := s.state()
		switch {
		case verdict != nil:
			wrong = verdict
		case isFailing:
			lost = s.lastError()
		case q.lacking[s] < len(q.waiting):
			return since, nil
		default:
			absent = fmt.Errorf("block %s: %w: none of %d sources has it; ask the publisher to run phase-publish fsck", t.leaf.CID, fs.ErrNotExist, len(sources))
		}
	}
	switch {
	case wrong != nil:
		return since, wrong
	case lost == nil && absent != nil:
		return since, absent
	case lost != nil:
		return since, fmt.Errorf("block %s: %w: %w", t.leaf.CID, cas.ErrUnreachable, lost)
	}
	return since, fmt.Errorf("block %s: %w: no source is known", t.leaf.CID, cas.ErrUnreachable)
}
