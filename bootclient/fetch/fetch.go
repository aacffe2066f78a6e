package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	maxLeaves = 1 << 20 // of all artifacts of a release

	cacheReaders = 4
)

// Options say what is fetched, and what receives progress and verified leaves.
type Options struct {
	Verified *manifest.Verified
	From     *peers.Source // asked first; nil for none
	Memory   *cas.Memory   // metadata of the release; its inner nodes are added
	Unread   []cid.Cid     // metadata files that are not in memory
	MakeRoom bool          // remove other releases from a full cache
	Fallback []cid.Cid     // roots of the artifacts that stay in a full cache if there is room for the release
	Early    *Early        // leaves that were fetched during the search; nil for none

	Rate    int64              // bytes per second that are requested on average; 0 for no limit
	Keep    func(cid.Cid) bool // blocks of other releases that MakeRoom keeps; nil for none
	MustFit bool               // an error if the cache has no room for the whole release, or takes no more blocks

	Shared   leafSharer
	Progress func(done, total int64)
}

// A leafSharer serves leaves to other machines once they are verified.
type leafSharer interface {
	// AddArtifact adds an artifact without leaves. They will be readable from target.
	AddArtifact(root cid.Cid, leaves []cas.Leaf, target io.ReaderAt)
	// Verified records that a leaf was verified and written at all its positions.
	Verified(c cid.Cid)
}

// A fetcher brings the artifacts of one release into the targets of a sink. The goroutine of
// fetchLeaves owns the queue. Each request has a goroutine of its own, which posts its results.
type fetcher struct {
	Options
	disc      *peers.Discovery
	cache     *cache.Cache
	release   manifest.Release
	downloads []*download
	total     int64
	earlier   report.SourceStats // leaves of earlier files of the sink

	stall  *peers.StallTimer
	queue  *queue
	got    int64
	posted chan func() error // results for the owner of the queue; an error ends the fetch
	polled atomic.Int32      // peers whose bitfields are polled
	pacer  pacer
	tasks  sync.WaitGroup
}

// A Result says what a fetch brought.
type Result struct {
	artifacts int
	bytes     int64
	Earlier   report.SourceStats // what earlier files of the sink gave
}

// All fetches every artifact that the sink wants and verifies each as a whole. The result is
// set after an error too.
func All(ctx context.Context, o Options, disc *peers.Discovery, c *cache.Cache, sink Sink) (Result, error) {
	f := &fetcher{Options: o, disc: disc, cache: c, release: o.Verified.Release(), stall: peers.NewStallTimer(disc), posted: make(chan func() error, 64)}
	err := f.all(ctx, sink)
	return Result{len(f.downloads), f.total, f.earlier}, err
}

func (f *fetcher) all(ctx context.Context, sink Sink) error {
	ctx, cancel := context.WithCancel(ctx)
	defer f.tasks.Wait()
	defer cancel()
	if err := f.open(sink); err != nil {
		return err
	}
	if err := f.listLeaves(ctx); err != nil {
		return err
	}
	if err := linkDownloads(f.downloads); err != nil {
		return fmt.Errorf("release %s: %w", f.release.Version, err)
	}
	f.cache.MakeRoom(ctx, f.roomPlan())
	if f.MustFit {
		if err := f.cache.CheckRoom(ctx, f.roomPlan()); err != nil {
			return err
		}
	}
	hashed := f.hashAll(ctx, sink)
	if err := f.fromEarly(ctx); err != nil {
		return err
	}
	if err := f.fromCache(ctx); err != nil {
		return err
	}
	if err := f.fromEarlier(ctx, sink); err != nil {
		return err
	}
	f.queue = newQueue(f.downloads, time.Now())
	f.queue.times = f.disc.Times
	f.queue.shuffled = f.disc.Mode.Uses("mdns") // other machines of the LAN may fetch the same release now
	f.queue.swarm = newSwarm(f.disc.Sources, f.downloads)
	if err := f.fetchLeaves(ctx); err != nil {
		return err
	}
	return <-hashed
}

// open opens a target for each artifact, kernel and initramfs first.
func (f *fetcher) open(sink Sink) error {
	order := map[string]int{manifest.RoleKernel: -2, manifest.RoleInitramfs: -1}
	slices.SortStableFunc(f.release.Artifacts, func(a, b manifest.Artifact) int { return order[a.Role] - order[b.Role] })
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

// listLeaves reads the inner nodes of all artifacts.
func (f *fetcher) listLeaves(ctx context.Context) error {
	src := peers.Pool{Memory: f.Memory, Cache: f.cache, Sources: f.disc.Sources, Prefer: f.From}.WithPatience(f.stall)
	g, ctx := errgroup.WithContext(ctx)
	for _, dl := range f.downloads {
		g.Go(func() (err error) {
			dl.leaves, err = listLeaves(ctx, src, dl.CID, dl.Length)
			if errors.Is(err, context.Canceled) {
				return fmt.Errorf("%s: %w", dl.Role, err)
			}
			if err != nil {
				return fmt.Errorf("%s: %w; %s", dl.Role, err, f.elsewhere())
			}
			f.Shared.AddArtifact(dl.CID, dl.leaves, dl.target)
			return nil
		})
	}
	return g.Wait()
}

// roomPlan lists the blocks of the release for the cache.
func (f *fetcher) roomPlan() cache.RoomPlan {
	p := cache.RoomPlan{Size: f.total, Fallback: f.Fallback, Keep: f.Keep}
	for _, d := range f.downloads {
		p.Leaves = append(p.Leaves, d.leaves...)
	}
	if f.MakeRoom {
		p.Memory, p.Unread = f.Memory, f.Unread
	}
	return p
}

// hashAll starts hashing the artifacts while they arrive, unless the sink verifies them itself. The
// channel receives the result.
func (f *fetcher) hashAll(ctx context.Context, sink Sink) <-chan error {
	done := make(chan error, 1)
	if _, ok := sink.(SelfVerifier); ok {
		for _, dl := range f.downloads {
			dl.reorder.drop() // no leaf is kept for a hash
		}
		done <- nil
		return done
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, dl := range f.downloads {
		g.Go(func() error { return dl.hash(ctx) })
	}
	f.tasks.Go(func() { done <- g.Wait() })
	return done
}

// fromCache writes the leaves that the cache has.
func (f *fetcher) fromCache(ctx context.Context) error {
	if !f.cache.IsOpen() {
		return nil
	}
	var completing sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(cacheReaders)
	for _, at := range slices.Collect(waiting(f.downloads)) {
		g.Go(func() error {
			data, ok := f.cache.Get(ctx, at.info().CID)
			if !ok {
				return ctx.Err()
			}
			if err := f.write(at, data); err != nil {
				return err
			}
			completing.Lock()
			defer completing.Unlock()
			f.got += at.download.complete(at.leaf)
			return nil
		})
	}
	return g.Wait()
}

// write writes a verified leaf to its targets. From now on it may be sent to other machines.
func (f *fetcher) write(at position, data []byte) error {
	err := at.download.write(at.leaf, data)
	if err == nil {
		f.Shared.Verified(at.info().CID)
	}
	return err
}

// fetchLeaves requests the leaves from all sources. It returns when all are written, no source
// can send the rest, or ctx ends.
func (f *fetcher) fetchLeaves(ctx context.Context) error {
	tick := time.NewTicker(timing.FetchTick)
	defer tick.Stop()
	known, more := f.disc.Sources.Known()
	f.stall.BlockArrived(time.Now())
	lastNews := time.Now() // when the last new source was found
	shown := int64(-1)
	for {
		f.addSources(ctx, known)
		f.dispatch(ctx)
		if f.queue.left == 0 {
			f.Progress(f.got, f.total)
			return nil
		}
		select {
		case did := <-f.posted:
			if err := did(); err != nil {
				return err
			}
		case <-more:
			lastNews = time.Now()
			known, more = f.disc.Sources.Known()
		case now := <-tick.C:
			if f.got != shown { // unchanged progress is not reported again
				shown = f.got
				f.Progress(f.got, f.total)
			}
			f.queue.swarm.refresh(f.queue, now)
			if err := f.giveUp(now, lastNews); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// post passes work to the owner of the queue.
func (f *fetcher) post(ctx context.Context, do func() error) {
	select {
	case f.posted <- do:
	case <-ctx.Done():
	}
}

// giveUp returns the reason to end the fetch, if there is one: all sources were refused, or no
// block has arrived for the whole patience. It also makes the queue retry missing blocks.
func (f *fetcher) giveUp(now, lastNews time.Time) error {
	f.stall.BlockArrived(f.queue.lastLeaf)
	since := f.stall.Check(now)
	f.queue.retryMissing(now)
	why := f.queue.exhausted(now)
	if errors.Is(why, cas.ErrCorrupt) && f.disc.Settled(lastNews, peers.FetchStanding) {
		return why
	}
	noSources := len(f.queue.sources) == 0 && !f.disc.Network // and none can be found
	if since < f.disc.BlockPatience() && !noSources {
		return nil
	}
	return fmt.Errorf("%w; %s", f.disc.NoBlockError(since, peers.Worse(f.queue.bannedFor(), why)), f.elsewhere())
}

// elsewhere returns the remedy when no source sends a block.
func (f *fetcher) elsewhere() string {
	return fmt.Sprintf("name another source with %s or %s, or ask the publisher to run phase-publish fsck", f.disc.Argument("mirror"), f.disc.Argument("peer"))
}

// addSources adds each new source to the queue. It first asks a source that may be a peer of
// the swarm for its bitfields.
func (f *fetcher) addSources(ctx context.Context, known []*peers.Source) {
	for _, s := range known[len(f.queue.sources):] {
		st := f.queue.addSource(s)
		st.ready = f.queue.swarm == nil || !s.IsPeer()
	}
	f.queue.openWindows()
	for _, st := range f.queue.sources {
		if !st.ready && !st.polled && st.src.State().Open {
			st.polled = true
			f.tasks.Go(func() { f.pollBitfields(ctx, st) })
		}
	}
}

// dispatch starts a request at every source that may get one.
func (f *fetcher) dispatch(ctx context.Context) {
	for {
		now := time.Now()
		if !f.pacer.mayRequest(now) {
			return
		}
		j := f.queue.next(now)
		if j == nil {
			return
		}
		f.pacer.requested(j, now, f.Rate)
		jctx, cancel := context.WithCancel(ctx)
		j.cancel = cancel
		f.tasks.Go(func() {
			defer cancel()
			err := f.perform(jctx, j, func(i int, data gateway.RunLeaf) error { return f.take(ctx, j, j.leaves[i], data) })
			f.post(ctx, func() error { f.finish(ctx, j, err); return nil })
		})
	}
}

// perform does the request of a job. It verifies each leaf and takes it before it reads the next.
func (f *fetcher) perform(ctx context.Context, j *job, take func(i int, data gateway.RunLeaf) error) error {
	leaves := make([]cas.Leaf, len(j.leaves))
	for k, i := range j.leaves {
		leaves[k] = j.download.leaves[i]
	}
	if j.ranged {
		return j.source.src.GetRange(ctx, f.Verified.TargetPath(j.download.Artifact), j.download.Length, leaves, take)
	}
	if len(leaves) > 1 {
		return j.source.src.GetRun(ctx, j.download.CID, leaves, take)
	}
	data, err := cas.Get(ctx, j.source.src, leaves[0].CID)
	if err != nil {
		return err
	}
	return take(0, gateway.RunLeaf{Data: data})
}

// take writes a verified leaf to its targets and to the cache.
func (f *fetcher) take(ctx context.Context, j *job, i int, data gateway.RunLeaf) error {
	if err := f.write(position{j.download, i}, data.Data); err != nil {
		f.post(ctx, func() error { return err }) // no other source can help
		return err
	}
	f.cache.Put(ctx, j.download.leaves[i].CID, data.Data)
	if err := f.cache.WriteError(); err != nil && f.MustFit {
		err = fmt.Errorf("cache: %w", err)
		f.post(ctx, func() error { return err })
		return err
	}
	j.download.reorder.put(i, data)
	f.post(ctx, func() error {
		f.got += f.queue.leafDone(j, i, time.Now())
		return nil
	})
	return nil
}

// finish records the end of a job.
func (f *fetcher) finish(ctx context.Context, j *job, err error) {
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, gateway.ErrNoRuns), errors.Is(err, gateway.ErrNoRanges):
	case j.dropped && !errors.Is(err, cas.ErrCorrupt):
	default:
		recordError(ctx, f.disc.Report, j.source.src, j.download.Role, err)
	}
	f.queue.jobDone(j, err, time.Now())
}

// recordError records the error of a request for a leaf of an artifact. It reports whether the
// source was banned now, and says so in the report.
func recordError(ctx context.Context, r *report.Report, s *peers.Source, role string, err error) (bannedNow bool) {
	if bannedNow = s.RecordError(ctx, err); bannedNow {
		r.Refuse(s.String(), "block of "+role, err)
	}
	return bannedNow
}

// Summary says how much was fetched, and from how many sources.
func (r Result) Summary(sources []report.SourceStats) string {
	n := 0
	for _, s := range sources {
		if s.Blocks > 0 {
			n++
		}
	}
	return fmt.Sprintf("%s, %s from %s", report.Count(r.artifacts, "artifact"), report.Bytes(r.bytes), report.Count(n, "source"))
}
