package bootclient

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	fetchTick = 50 * time.Millisecond // between looks at progress, hope and what is slow
	maxLeaves = 1 << 20               // of all artifacts of a release

	cacheReaders = 4
)

// A fetch brings the artifacts of one release into the targets of a sink. One
// goroutine, run's, owns the queue; jobs run beside it and post what came of them.
type fetch struct {
	cfg       Config
	disc      *discovery
	cache     *cache
	release   manifest.Release
	downloads []*download
	nodes     sync.Map // inner nodes of the artifacts: []byte by cid.Cid
	total     int64

	vigil  *vigil
	queue  *queue
	got    int64
	posted chan func() error // for the owner of the queue, an error ends the fetch
	peers  atomic.Int32      // asked what they have
	tasks  sync.WaitGroup
}

// fetchAll fetches every artifact that the sink wants and verifies each as a whole.
// The source that gave the release is the first to be asked.
func fetchAll(ctx context.Context, cfg Config, disc *discovery, c *cache, won resolution, sink Sink) (*fetch, error) {
	f := &fetch{cfg: cfg, disc: disc, cache: c, release: won.v.Release(), vigil: newVigil(cfg), posted: make(chan func() error, 64)}
	ctx, cancel := context.WithCancel(ctx)
	defer f.tasks.Wait()
	defer cancel()
	if err := f.open(sink); err != nil {
		return f, err
	}
	if err := f.listLeaves(ctx, won.from); err != nil {
		return f, err
	}
	if err := link(f.downloads); err != nil {
		return f, fmt.Errorf("release %s: %w", f.release.Version, err)
	}
	f.makeRoom(ctx, won.folder)
	hashed := f.hashAll(ctx)
	if err := f.fromCache(ctx); err != nil {
		return f, err
	}
	if err := f.fromSink(ctx, sink); err != nil {
		return f, err
	}
	f.queue = newQueue(f.downloads, time.Now())
	f.queue.times = cfg.times
	f.queue.shuffled = cfg.Mode.Uses("mdns")
	f.queue.swarm = newSwarm(disc.sources, f.downloads)
	if err := f.run(ctx); err != nil {
		return f, err
	}
	return f, <-hashed
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
	if p, ok := sink.(Planner); ok {
		if err := p.Plan(f.release); err != nil {
			return err
		}
	}
	for _, a := range f.release.Artifacts {
		t, err := sink.Open(a.Role, a.Length)
		if err != nil {
			return fmt.Errorf("%s of %d bytes: %w", a.Role, a.Length, err)
		}
		if t != nil {
			f.downloads = append(f.downloads, &download{Artifact: a, target: t})
			f.total += a.Length
		}
	}
	return nil
}

// listLeaves reads the inner nodes of all artifacts, of first before all others.
func (f *fetch) listLeaves(ctx context.Context, first *source) error {
	var src cas.Source = patient{pool{sources: f.disc.sources, cache: f.cache, prefer: first}, f.disc, f.vigil}
	src = f.disc.shared.recording(recorder{src, func(id cid.Cid, data []byte) { f.nodes.Store(id, data) }})
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range f.downloads {
		g.Go(func() (err error) {
			p.leaves, err = cas.Leaves(ctx, src, p.CID, p.Length)
			if errors.Is(err, context.Canceled) {
				return fmt.Errorf("%s: %w", p.Role, err)
			}
			if err != nil {
				return fmt.Errorf("%s: %w; %s", p.Role, err, elsewhere)
			}
			f.disc.shared.stock(p.CID, p.leaves, p.target)
			return nil
		})
	}
	return g.Wait()
}

// hashAll hashes the artifacts while they arrive. The channel gives the outcome of all.
func (f *fetch) hashAll(ctx context.Context) <-chan error {
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range f.downloads {
		g.Go(func() error { return p.hash(ctx) })
	}
	done := make(chan error, 1)
	f.tasks.Go(func() { done <- g.Wait() })
	return done
}

// fromCache writes the leaves that the cache has.
func (f *fetch) fromCache(ctx context.Context) error {
	if f.cache.store == nil {
		return nil
	}
	var wanted []position
	for _, p := range f.downloads {
		for i := p.waiting.next(0); i >= 0; i = p.waiting.next(i + 1) {
			wanted = append(wanted, position{p, i})
		}
	}
	found := make(chan position, 64)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(1 + cacheReaders)
	g.Go(func() error {
		for _, at := range wanted {
			g.Go(func() error { return f.takeCached(gctx, at, found) })
		}
		return nil
	})
	failed := make(chan error, 1)
	go func() {
		failed <- g.Wait()
		close(found)
	}()
	for at := range found {
		f.got += at.download.landed(at.leaf)
	}
	return <-failed
}

func (f *fetch) takeCached(ctx context.Context, at position, found chan<- position) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	data, ok := f.cache.get(ctx, at.download.leaves[at.leaf].CID)
	if !ok {
		return nil
	}
	if err := at.download.write(at.leaf, data); err != nil {
		return err
	}
	f.disc.shared.verified(at.download.leaves[at.leaf].CID)
	found <- at
	return nil
}

// run asks all sources for the leaves until there are none left, none can be had,
// or ctx ends.
func (f *fetch) run(ctx context.Context) error {
	tick := time.NewTicker(fetchTick)
	defer tick.Stop()
	known, more := f.disc.sources.known()
	f.vigil.came(time.Now())
	calm := time.Now() // when a source turned up
	shown := int64(-1)
	for {
		f.admit(ctx, known)
		f.dispatch(ctx)
		if f.queue.left == 0 {
			f.cfg.Progress(f.got, f.total)
			return nil
		}
		select {
		case did := <-f.posted:
			if err := did(); err != nil {
				return err
			}
		case <-more:
			calm = time.Now()
			known, more = f.disc.sources.known()
		case now := <-tick.C:
			if f.got != shown { // who watches sees at once that nothing comes
				shown = f.got
				f.cfg.Progress(f.got, f.total)
			}
			f.queue.swarm.refresh(f.queue, now)
			if err := f.hope(now, calm); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// post gives the owner of the queue something to do.
func (f *fetch) post(ctx context.Context, do func() error) {
	select {
	case f.posted <- do:
	case <-ctx.Done():
	}
}

// hope returns the reason to give up, if there is one: all sources were refused, or nothing
// has come in for as long as the patience lasts. Sources are asked again for what they
// lacked when nothing else is to be had.
func (f *fetch) hope(now, calm time.Time) error {
	f.vigil.came(f.queue.last)
	since := f.vigil.waits(now, func() string { return f.disc.tried() })
	f.queue.askAgain(now)
	why := f.queue.exhausted(now)
	if errors.Is(why, cas.ErrCorrupt) && f.disc.settled(calm, banned) {
		return why
	}
	if since < f.disc.patience() && !f.nobody() {
		return nil
	}
	return fmt.Errorf("%w; %s", f.disc.inVain(since, worse(f.queue.bannedFor(), why)), elsewhere)
}

// nobody reports whether there is no source and none can turn up.
func (f *fetch) nobody() bool { return len(f.queue.sources) == 0 && !f.disc.network }

// elsewhere is what to do when the sources do not give a block.
const elsewhere = "name another source with --mirror or --peer (phase.mirror=, phase.peer=), or ask the publisher to run phase-publish fsck"

// admit adds each new source to the queue. One that may be a neighbour is asked for that
// first.
func (f *fetch) admit(ctx context.Context, known []*source) {
	for _, s := range known[len(f.queue.sources):] {
		st := f.queue.addSource(s)
		st.joined = f.queue.swarm == nil || !s.isPeer()
	}
	for _, st := range f.queue.sources {
		if open, _, _, _ := st.src.state(); open && !st.joined && !st.watched {
			st.watched = true
			f.tasks.Go(func() { f.watch(ctx, st) })
		}
	}
}

// dispatch starts every job that a free source can be given.
func (f *fetch) dispatch(ctx context.Context) {
	for {
		j := f.queue.next(time.Now())
		if j == nil {
			return
		}
		jctx, cancel := context.WithCancel(ctx)
		j.cancel = cancel
		f.tasks.Go(func() {
			defer cancel()
			err := f.ask(jctx, j, func(i int, data gateway.Loan) error { return f.take(ctx, j, j.leaves[i], data) })
			f.post(ctx, func() error { return f.ended(ctx, j, err) })
		})
	}
}

// ask does a job: each leaf is verified, and taken before the next is read.
func (f *fetch) ask(ctx context.Context, j *job, take func(i int, data gateway.Loan) error) error {
	leaves := make([]cas.Leaf, len(j.leaves))
	for k, i := range j.leaves {
		leaves[k] = j.download.leaves[i]
	}
	if len(leaves) > 1 {
		return j.source.src.run(ctx, j.download.CID, leaves, take)
	}
	data, err := cas.Get(ctx, j.source.src, leaves[0].CID)
	if err != nil {
		return err
	}
	return take(0, gateway.Loan{Data: data})
}

// take puts a verified leaf into its places, the cache among them.
func (f *fetch) take(ctx context.Context, j *job, i int, data gateway.Loan) error {
	if err := j.download.write(i, data.Data); err != nil {
		return &fatalError{err}
	}
	f.disc.shared.verified(j.download.leaves[i].CID)
	f.cache.put(ctx, j.download.leaves[i].CID, data.Data)
	j.download.hand.put(i, data)
	f.post(ctx, func() error {
		f.got += f.queue.landed(j, i, time.Now())
		return nil
	})
	return nil
}

// A fatalError ends the fetch: no other source can mend it.
type fatalError struct{ error }

func (e *fatalError) Unwrap() error { return e.error }

// ended keeps the books about a job that is over.
func (f *fetch) ended(ctx context.Context, j *job, err error) error {
	s := j.source.src
	switch fatal := (*fatalError)(nil); {
	case errors.As(err, &fatal):
		return fatal.error
	case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, gateway.ErrNoRuns):
	case j.dropped && !errors.Is(err, cas.ErrCorrupt):
	case s.blame(ctx, err):
		f.cfg.Report.Refuse(s.String(), "block of "+j.download.Role, err)
	}
	f.queue.ended(j, err, time.Now())
	return nil
}

// words says what was fetched, from how many sources.
func (f *fetch) words(sources []SourceStats) string {
	n := 0
	for _, s := range sources {
		if s.Blocks > 0 {
			n++
		}
	}
	return fmt.Sprintf("%s, %s from %s", count(len(f.downloads), "artifact"), bytesOf(f.total), count(n, "source"))
}
