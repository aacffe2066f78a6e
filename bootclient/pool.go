package bootclient

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	sources *sourceSet
	cache   *cache
	prefer  *source // asked first; nil for none
}

// A missingBlock is the error of a block that no source gave. Another one may have it, or
// the same one at another time.
type missingBlock struct{ error }

func (m *missingBlock) Unwrap() error { return m.error }

// Block returns the verified block c. Its error is a *missingBlock. It wraps cas.ErrCorrupt
// when a source sent wrong bytes, now or before, and none had the right ones, else
// cas.ErrUnreachable: "not found" is never said of a block that somebody promised.
func (p pool) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if data, ok := p.cache.get(ctx, c); ok {
		return data, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sources := p.usable()
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
			return nil, p.telling(c, errs)
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
			return nil, &missingBlock{fmt.Errorf("block %s: %w: %w", c, cas.ErrUnreachable, ctx.Err())}
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

// candidates returns the sources that may be asked now: the preferred one, then the others
// that have been reached. One that failed may be asked again after its pause; those that
// kept us waiting or fail all the time come last.
func (p pool) usable() []*source {
	known, _ := p.sources.known()
	if i := slices.Index(known, p.prefer); i > 0 {
		known = slices.Insert(slices.Delete(known, i, i+1), 0, p.prefer)
	}
	var out []*source
	late := map[*source]int{}
	for _, s := range known {
		open, isFailing, wait, verdict := s.state()
		if (open || s == p.prefer) && wait <= 0 && verdict == nil {
			out = append(out, s)
			late[s] = number(s.isSlow()) + 2*number(isFailing)
		}
	}
	slices.SortStableFunc(out, func(a, b *source) int { return late[a] - late[b] })
	return out
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// telling joins what the sources said about a block, now or when they were banned, into the
// error that says most.
func (p pool) telling(c cid.Cid, errs []error) error {
	known, _ := p.sources.known()
	var worst error
	for _, err := range errs {
		worst = worse(worst, err)
	}
	for _, s := range known {
		if err := s.lastError(); rank(err) > rank(worst) && !errors.Is(err, fs.ErrNotExist) {
			worst = err
		}
	}
	switch {
	case errors.Is(worst, cas.ErrCorrupt):
		return &missingBlock{worst}
	case worst == nil:
		return &missingBlock{fmt.Errorf("block %s: %w: no source is left", c, cas.ErrUnreachable)}
	case len(errs) == 0:
		return &missingBlock{fmt.Errorf("block %s: %w: no source may be asked now; the last said: %v", c, cas.ErrUnreachable, worst)}
	}
	return &missingBlock{fmt.Errorf("%w: %s asked; %v", cas.ErrUnreachable, count(len(errs), "source"), errs[len(errs)-1])}
}

// A patient pool asks again and again for a block, until it comes, the rule of
// docs/PATIENCE.md ends the fetch, or nothing has come from anybody for too long.
type patient struct {
	pool
	disc  *discovery
	vigil *vigil
}

// Block is pool's, with patience.
func (p patient) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	calm := time.Now()
	for n := 0; ; n++ {
		_, more := p.sources.known()
		data, err := p.pool.Block(ctx, c)
		now := time.Now()
		if err == nil {
			p.vigil.came(now)
		}
		if err == nil || ctx.Err() != nil {
			return data, err
		}
		waited := p.vigil.waits(now, p.disc.tried)
		if p.disc.settled(calm, banned) {
			return nil, err
		}
		limit := p.disc.patience()
		if waited >= limit {
			return nil, p.disc.inVain(waited, err)
		}
		select {
		case <-more:
			calm = time.Now()
		case <-time.After(growing(p.disc.cfg.times.failFirst, n, min(p.disc.cfg.times.lackFirst, limit))):
		case <-ctx.Done():
		}
	}
}
