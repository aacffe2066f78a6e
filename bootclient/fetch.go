package bootclient

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	window     = 6                      // requests under way at one source
	maxActive  = 32                     // sources asked at the same time
	maxWorkers = 48                     // requests under way at all of them, and so blocks in memory
	fetchTick  = 100 * time.Millisecond // between looks at progress and hope
	stallLimit = 30 * time.Second       // without a single leaf before the fetch is given up
	maxLeaves  = 1 << 20                // of all artifacts of a release
)

// A fetch brings the artifacts of one release into the targets of a sink.
type fetch struct {
	cfg     Config
	disc    *discovery
	cache   *cache
	release manifest.Release
	wanted  []wanted
	total   int64
	got     atomic.Int64

	queue  *queue
	fatal  chan error
	active map[*source]bool
	hired  atomic.Int32
	tasks  sync.WaitGroup
}

type wanted struct {
	manifest.Artifact
	target Target
	leaves []cas.Leaf
}

// fetchAll fetches every artifact that the sink wants and verifies each as a whole.
// The source that gave the release is the first to be asked.
func fetchAll(ctx context.Context, cfg Config, disc *discovery, c *cache, won resolution, sink Sink) (*fetch, error) {
	f := &fetch{cfg: cfg, disc: disc, cache: c, release: won.v.Release(), fatal: make(chan error, 1), active: map[*source]bool{}}
	ctx, cancel := context.WithCancel(ctx)
	defer f.tasks.Wait()
	defer cancel()
	if err := f.open(sink); err != nil {
		return f, err
	}
	if err := f.listLeaves(ctx, won.from); err != nil {
		return f, err
	}
	tasks, err := f.plan(ctx)
	if err != nil {
		return f, err
	}
	f.queue = newQueue(tasks)
	defer f.queue.close()
	if won.from != nil {
		f.employ(ctx, []*source{won.from})
	}
	if err := f.run(ctx); err != nil {
		return f, err
	}
	return f, f.verify(ctx)
}

// open makes room for each artifact, kernel and initramfs first.
func (f *fetch) open(sink Sink) error {
	first := func(a manifest.Artifact) int {
		if i := slices.Index([]string{manifest.RoleKernel, manifest.RoleInitramfs}, a.Role); i >= 0 {
			return i
		}
		return 2
	}
	slices.SortStableFunc(f.release.Artifacts, func(a, b manifest.Artifact) int { return first(a) - first(b) })
	for _, a := range f.release.Artifacts {
		t, err := sink.Open(a.Role, a.Length)
		if err != nil {
			return fmt.Errorf("%s of %d bytes: %w", a.Role, a.Length, err)
		}
		if t != nil {
			f.wanted = append(f.wanted, wanted{Artifact: a, target: t})
			f.total += a.Length
		}
	}
	return nil
}

// listLeaves reads the inner nodes of all artifacts, of first before all others.
func (f *fetch) listLeaves(ctx context.Context, first *source) error {
	src := patient{pool{hub: f.disc.hub, cache: f.cache, prefer: first}, min(stallLimit, f.cfg.Timeout), f.patience()}
	g, ctx := errgroup.WithContext(ctx)
	for i := range f.wanted {
		w := &f.wanted[i]
		g.Go(func() (err error) {
			if w.leaves, err = cas.Leaves(ctx, src, w.CID, w.Length); err != nil {
				return fmt.Errorf("%s: %w", w.Role, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// plan takes what the cache has and returns a task for each other leaf, the ones of
// kernel and initramfs first, in an order of this machine's own within each artifact.
func (f *fetch) plan(ctx context.Context) ([]*task, error) {
	var tasks []*task
	byCID := map[cid.Cid]*task{}
	for _, w := range f.wanted {
		order := rand.Perm(len(w.leaves))
		for _, i := range order {
			l := w.leaves[i]
			p := place{w.target, l.Offset}
			if t := byCID[l.CID]; t != nil && t.leaf.Size == l.Size {
				t.places = append(t.places, p)
				continue
			}
			t := &task{leaf: l, places: []place{p}}
			byCID[l.CID] = t
			tasks = append(tasks, t)
		}
		if len(tasks) > maxLeaves {
			return nil, fmt.Errorf("release %s: more than %d blocks: %w", f.release.Version, maxLeaves, cas.ErrCorrupt)
		}
	}
	return f.fromCache(ctx, tasks)
}

// fromCache writes the leaves that the cache has and returns the others.
func (f *fetch) fromCache(ctx context.Context, tasks []*task) ([]*task, error) {
	if f.cache.store == nil {
		return tasks, nil
	}
	missing := make([]bool, len(tasks))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i, t := range tasks {
		g.Go(func() error {
			if gctx.Err() != nil {
				return gctx.Err()
			}
			data, ok := f.cache.get(gctx, t.leaf.CID)
			if !ok {
				missing[i] = true
				return nil
			}
			return f.write(t, data)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var rest []*task
	for i, t := range tasks {
		if missing[i] {
			rest = append(rest, t)
		}
	}
	return rest, nil
}

// write puts a verified leaf into its places.
func (f *fetch) write(t *task, data []byte) error {
	if int64(len(data)) != t.leaf.Size {
		return fmt.Errorf("block %s: %d bytes, its file says %d: %w; the signer has to release again", t.leaf.CID, len(data), t.leaf.Size, cas.ErrCorrupt)
	}
	for _, p := range t.places {
		if _, err := p.target.WriteAt(data, p.offset); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
		f.got.Add(int64(len(data)))
	}
	return nil
}

// run asks all sources for the leaves until there are none left, none can be had,
// or ctx ends.
func (f *fetch) run(ctx context.Context) error {
	tick := time.NewTicker(fetchTick)
	defer tick.Stop()
	var gloomy time.Time // since when there is no hope
	for {
		known, more := f.disc.hub.known()
		f.employ(ctx, known)
		select {
		case <-f.queue.end:
			f.cfg.Progress(f.got.Load(), f.total)
			return nil
		case err := <-f.fatal:
			return err
		case <-more:
			gloomy = time.Time{}
		case <-tick.C:
			f.cfg.Progress(f.got.Load(), f.total)
			if err := f.hope(known, &gloomy); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hope returns the reason to give up, if there is one: wrong or missing blocks and
// nobody else turns up, or nothing has come in for too long.
func (f *fetch) hope(known []*source, gloomy *time.Time) error {
	since, why := f.queue.hopeless(known)
	if why == nil {
		*gloomy = time.Time{}
	} else if gloomy.IsZero() {
		*gloomy = time.Now()
	}
	if why != nil && !errors.Is(why, cas.ErrUnreachable) && time.Since(*gloomy) >= f.patience() {
		return why
	}
	if since < min(stallLimit, f.cfg.Timeout) {
		return nil
	}
	if why == nil {
		why = fmt.Errorf("%w: sources answer, but no block has come in", cas.ErrUnreachable)
	}
	return fmt.Errorf("no block for %s: %w (%s)", since.Round(time.Second), why, f.disc.tried())
}

// patience is how long another source may turn up after all known ones failed us.
func (f *fetch) patience() time.Duration {
	if f.disc.network {
		return settle
	}
	return 0
}

// employ starts the first worker of each open source that has none.
func (f *fetch) employ(ctx context.Context, known []*source) {
	for _, s := range known {
		open, _, _, verdict := s.state()
		if !open || f.active[s] || verdict != nil || len(f.active) >= maxActive {
			continue
		}
		f.active[s] = true
		f.tasks.Go(func() { f.lead(ctx, s) })
	}
}

// lead is a source's first worker. After its first block it hires the others.
func (f *fetch) lead(ctx context.Context, s *source) {
	for !f.step(ctx, s) {
		if !f.goesOn(ctx, s) {
			return
		}
	}
	for range window - 1 {
		if f.hired.Add(1) <= maxWorkers-maxActive {
			f.tasks.Go(func() { f.work(ctx, s) })
		}
	}
	f.work(ctx, s)
}

func (f *fetch) work(ctx context.Context, s *source) {
	for f.goesOn(ctx, s) {
		f.step(ctx, s)
	}
}

// goesOn waits out the pause of a source after a fault; false when it is not asked
// any more.
func (f *fetch) goesOn(ctx context.Context, s *source) bool {
	if _, _, wait, _ := s.state(); wait > 0 {
		select {
		case <-time.After(wait):
		case <-s.banned:
		case <-f.queue.end:
		case <-ctx.Done():
		}
	}
	return ctx.Err() == nil && !s.isBanned() && !f.queue.ended()
}

// step asks s for one leaf and puts it in place. It reports whether s gave it.
func (f *fetch) step(ctx context.Context, s *source) bool {
	t, actx := f.queue.take(ctx, s)
	if t == nil {
		return false
	}
	data, err := cas.Get(actx, s, t.leaf.CID)
	switch {
	case err == nil:
	case errors.Is(err, cas.ErrCorrupt):
		s.ban(err)
		f.cfg.Report.Refuse(s.String(), "block "+t.leaf.CID.String(), err)
	case actx.Err() == nil && errors.Is(err, cas.ErrUnreachable):
		s.failed(err)
	}
	if !f.queue.give(s, t, err) {
		return err == nil
	}
	s.gave(len(data))
	if err := f.write(t, data); err != nil {
		f.stop(err)
		return true
	}
	f.cache.put(ctx, t.leaf.CID, data)
	f.queue.settled()
	return true
}

// stop ends the fetch for a reason that no other source can mend.
func (f *fetch) stop(err error) {
	select {
	case f.fatal <- err:
	default:
	}
}

// words says what was fetched, from how many sources.
func (f *fetch) words(sources []SourceStats) string {
	n := 0
	for _, s := range sources {
		if s.Blocks > 0 {
			n++
		}
	}
	return fmt.Sprintf("%d artifacts, %s from %d sources", len(f.wanted), bytesOf(f.total), n)
}
