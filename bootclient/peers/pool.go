package peers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
)

// A Pool reads single blocks (metadata and inner nodes): from memory, from the cache, or from
// whichever source sends the right bytes first. It asks the preferred source first, then the
// other open sources: one after timing.Stagger, then two more, then four (hedged requests). It is
// a cas.Source that returns verified blocks, and keeps them in memory and in the cache.
type Pool struct {
	Memory  *cas.Memory // nil for none
	Cache   *cache.Cache
	Sources *Set    // nil for none
	Prefer  *Source // asked first; nil for none
}

// A MissingBlock is the error of a block that no source sent. Another source may have it, or the
// same source later.
type MissingBlock struct{ error }

// Unwrap returns the cause.
func (m *MissingBlock) Unwrap() error { return m.error }

// Block returns the verified block c. Its error is a *MissingBlock. It wraps cas.ErrCorrupt if a
// source sent wrong bytes, now or earlier, else cas.ErrUnreachable. It never wraps
// fs.ErrNotExist, because the block is part of a signed release.
func (p Pool) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if data, ok := p.local(ctx, c); ok {
		return data, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sources := p.Usable()
	answers := make(chan answer, len(sources))
	var errs []error
	next, running, more := 0, 0, 1
	waited := map[*Source]bool{}
	for {
		for ; more > 0 && next < len(sources); more-- {
			s := sources[next]
			next, running, waited[s] = next+1, running+1, true
			go func() { answers <- getFrom(ctx, s, c) }()
		}
		var late <-chan time.Time
		if next < len(sources) {
			late = time.After(timing.Stagger)
		} else if running == 0 {
			return nil, p.noSource(c, errs)
		}
		select {
		case a := <-answers:
			running--
			more = 1
			delete(waited, a.src)
			if a.err == nil {
				p.Cache.Put(ctx, c, a.data)
				return a.data, p.remember(ctx, c, a.data)
			}
			errs = append(errs, a.err)
		case <-late:
			for s := range waited {
				s.MarkSlow("")
			}
			more = next // twice as many as before
		case <-ctx.Done():
			return nil, &MissingBlock{fmt.Errorf("block %s: %w: %w", c, cas.ErrUnreachable, ctx.Err())}
		}
	}
}

// local returns a block of the memory or of the cache.
func (p Pool) local(ctx context.Context, c cid.Cid) ([]byte, bool) {
	if p.Memory != nil {
		if data, err := p.Memory.Block(ctx, c); err == nil {
			return data, true
		}
	}
	data, ok := p.Cache.Get(ctx, c)
	return data, ok && p.remember(ctx, c, data) == nil
}

// maxMemory bounds the bytes in the memory of a Pool. The inner nodes of 20 GiB of leaves need less.
// A thief of the IPNS key can name a folder whose files have inner nodes of many times their length.
const maxMemory = 16 << 20

// remember puts a verified block into the memory unless that is full, also when ctx has ended: a
// block that arrived is not missing.
func (p Pool) remember(ctx context.Context, c cid.Cid, data []byte) error {
	if p.Memory == nil || p.Memory.Bytes()+len(data) > maxMemory {
		return nil
	}
	return p.Memory.Put(context.WithoutCancel(ctx), c, data)
}

type answer struct {
	src  *Source
	data []byte
	err  error
}

// getFrom reads a verified block from one source and records the result in the source.
func getFrom(ctx context.Context, s *Source, c cid.Cid) answer {
	data, err := cas.Get(ctx, s, c)
	if err == nil {
		s.Delivered(len(data))
		return answer{s, data, nil}
	}
	s.RecordError(ctx, err)
	if errors.Is(err, fs.ErrNotExist) {
		s.NoteError(err) // for the status
	}
	return answer{s, nil, fmt.Errorf("%s: %w", s, err)}
}

// Usable returns the sources that may be asked now: the preferred one, then the other open
// ones. Slow and failing sources come last. A source in a pause is left out.
func (p Pool) Usable() []*Source {
	known, _ := p.Sources.Known()
	if i := slices.Index(known, p.Prefer); i > 0 {
		known = slices.Insert(slices.Delete(known, i, i+1), 0, p.Prefer)
	}
	var out []*Source
	late := map[*Source]int{}
	for _, s := range known {
		st := s.State()
		if st.Open = st.Open || s == p.Prefer; !st.MayAsk() {
			continue
		}
		out = append(out, s)
		if st.Slow {
			late[s] = 1
		}
		if st.Failing {
			late[s] += 2
		}
	}
	slices.SortStableFunc(out, func(a, b *Source) int { return late[a] - late[b] })
	return out
}

// noSource joins the errors of the sources for a block, also of earlier bans, into the worst.
func (p Pool) noSource(c cid.Cid, errs []error) error {
	known, _ := p.Sources.Known()
	var worst error
	for _, err := range errs {
		worst = Worse(worst, err)
	}
	for _, s := range known {
		if err := s.LastError(); Rank(err) > Rank(worst) && !errors.Is(err, fs.ErrNotExist) {
			worst = err
		}
	}
	switch {
	case errors.Is(worst, cas.ErrCorrupt):
		return &MissingBlock{worst}
	case worst == nil:
		return &MissingBlock{fmt.Errorf("block %s: %w: no source is left", c, cas.ErrUnreachable)}
	case len(errs) == 0:
		return &MissingBlock{fmt.Errorf("block %s: %w: no source can be asked now; last error: %v", c, cas.ErrUnreachable, worst)}
	}
	return &MissingBlock{fmt.Errorf("%w: %s asked; %v", cas.ErrUnreachable, report.Count(len(errs), "source"), errs[len(errs)-1])}
}

// WithPatience returns a source that retries each block until it arrives, or until the rule of
// docs/PATIENCE.md or the patience ends the fetch.
func (p Pool) WithPatience(stall *StallTimer) cas.Source { return patient{p, stall} }

type patient struct {
	Pool
	stall *StallTimer
}

// Block returns the verified block c.
func (p patient) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	disc, lastNews := p.stall.disc, time.Now()
	for n := 0; ; n++ {
		_, more := p.Sources.Known()
		data, err := p.Pool.Block(ctx, c)
		switch {
		case err == nil:
			p.stall.BlockArrived(time.Now())
			return data, nil
		case ctx.Err() != nil:
			return nil, err
		}
		waited := p.stall.Check(time.Now())
		if disc.Settled(lastNews, FetchStanding) {
			return nil, err
		}
		limit := disc.BlockPatience()
		if waited >= limit {
			return nil, disc.NoBlockError(waited, err)
		}
		select {
		case <-more:
			lastNews = time.Now()
		case <-time.After(timing.Growing(disc.Times.FailFirst, n, min(disc.Times.LackFirst, limit))):
		case <-ctx.Done():
		}
	}
}
