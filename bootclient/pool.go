package bootclient

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

const stagger = 300 * time.Millisecond // before the next source is asked for the same block

// A pool reads single blocks, metadata and inner nodes, from whichever source gives
// the right bytes first: the cache, then the preferred source, then the others
// that have been reached, one after a while, then two, then four. It is a
// cas.Source that has verified what it returns.
type pool struct {
	hub    *hub
	cache  *cache
	prefer *source // asked first; nil for none
}

// Block returns the verified block c. The error wraps cas.ErrCorrupt when a source
// sent wrong bytes and no other had the right ones, else cas.ErrUnreachable: "not
// found" is never said of a block that somebody promised.
func (p pool) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if data, ok := p.cache.get(ctx, c); ok {
		return data, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sources := p.candidates()
	answers := make(chan answer, len(sources))
	var errs []error
	next, running, more := 0, 0, 1
	waited := map[*source]bool{}
	for {
		for ; more > 0 && next < len(sources); more-- {
			s := sources[next]
			next, running, waited[s] = next+1, running+1, true
			go func() { answers <- ask(ctx, s, c) }()
		}
		var late <-chan time.Time
		if next < len(sources) {
			late = time.After(stagger)
		} else if running == 0 {
			return nil, telling(c, errs)
		}
		select {
		case a := <-answers:
			running--
			more = 1
			delete(waited, a.src)
			if a.err == nil {
				p.cache.put(ctx, c, a.data)
				return a.data, nil
			}
			errs = append(errs, a.err)
		case <-late:
			for s := range waited {
				s.late("")
			}
			more = next // twice as many as before: they are few, and time is short
		case <-ctx.Done():
			return nil, fmt.Errorf("block %s: %w: %w", c, cas.ErrUnreachable, ctx.Err())
		}
	}
}

type answer struct {
	src  *source
	data []byte
	err  error
}

// ask is the verified read of one source, which keeps its books.
func ask(ctx context.Context, s *source, c cid.Cid) answer {
	data, err := cas.Get(ctx, s, c)
	if err == nil {
		s.gave(len(data))
		return answer{s, data, nil}
	}
	s.blame(ctx, err)
	return answer{s, nil, fmt.Errorf("%s: %w", s, err)}
}

// candidates returns the sources worth asking: the preferred one, then those that
// have been reached and do not fail all the time; whoever kept us waiting comes last.
func (p pool) candidates() []*source {
	known, _ := p.hub.known()
	var out []*source
	if p.prefer != nil {
		if _, _, _, verdict := p.prefer.state(); verdict == nil {
			out = append(out, p.prefer)
		}
	}
	for _, s := range known {
		open, isFailing, _, verdict := s.state()
		if s != p.prefer && open && !isFailing && verdict == nil {
			out = append(out, s)
		}
	}
	slow := map[*source]bool{}
	for _, s := range out {
		slow[s] = s.isSlow()
	}
	slices.SortStableFunc(out, func(a, b *source) int { return number(slow[a]) - number(slow[b]) })
	return out
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// telling joins what sources said about one block into the error that says most.
func telling(c cid.Cid, errs []error) error {
	for _, err := range errs {
		if errors.Is(err, cas.ErrCorrupt) {
			return err
		}
	}
	if len(errs) == 0 {
		return fmt.Errorf("block %s: %w: no source is left", c, cas.ErrUnreachable)
	}
	return fmt.Errorf("%w: %s asked; %v", cas.ErrUnreachable, count(len(errs), "source"), errs[len(errs)-1])
}

// A patient pool asks again while its sources are out of reach, as long as the
// fetch of a leaf would wait.
type patient struct {
	pool
	limit  time.Duration // without an answer
	settle time.Duration // for another source, once all known ones sent wrong bytes
}

// Block is pool's, with patience.
func (p patient) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	start, pause := time.Now(), firstPause
	for {
		_, more := p.hub.known()
		data, err := p.pool.Block(ctx, c)
		if err == nil || ctx.Err() != nil {
			return data, err
		}
		waited := time.Since(start)
		if waited > p.limit || (errors.Is(err, cas.ErrCorrupt) && waited > p.settle && !p.hope()) {
			return nil, err
		}
		select {
		case <-more:
		case <-time.After(pause):
			pause = min(2*pause, maxPause)
		case <-ctx.Done():
		}
	}
}

// hope reports whether there is a source that was neither banned nor fails all the
// time.
func (p patient) hope() bool {
	known, _ := p.hub.known()
	for _, s := range known {
		if _, isFailing, _, verdict := s.state(); verdict == nil && !isFailing {
			return true
		}
	}
	return false
}
