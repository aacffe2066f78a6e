package resolve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	maxDirectories = 64 // candidates at the same time
	maxAnnouncers  = 32 // announcers of one candidate
)

// Options say which release is looked for.
type Options struct {
	Policy    func() manifest.Policy // of the present time, with the saved state of the cache, read-only
	Names     []string               // trusted IPNS names
	SaveState bool                   // the saved state of the cache may be written
	// Early begins to fetch the newest valid release so far through src, while the search goes on.
	// Its ctx ends when a newer one is found and when the search ends, which waits for its return.
	Early func(ctx context.Context, r manifest.Release, src peers.Pool)
}

// A resolver finds the newest valid release. It asks every source for its pointers, verifies
// each different metadata directory once, all in parallel, and keeps the newest. Its fields
// belong to the goroutine of search.
type resolver struct {
	Options
	disc  *peers.Discovery
	cache *cache.Cache

	posted chan func() // results for the goroutine of search

	replies      map[*peers.Source]*reply // last answer of each source; nil before the first
	pending      int                      // sources without an answer
	checking     int                      // candidates that are being verified
	candidates   map[cid.Cid]*releaseCandidate
	best         *checkResult
	early        *checkResult       // the one that Early fetches
	endEarly     context.CancelFunc // ends the last call of Early
	cached       *checkResult       // of the cache alone
	readingCache bool               // the cache is being read
	readers      sync.WaitGroup     // goroutines that read the cache, which is closed after the search
	worst        error              // worst refusal so far
	lastNews     time.Time          // time of the last news
	lookEnd      time.Time          // no result before this: the first answer may not be the newest
	deadline     time.Time
	began        time.Time
	reportedAt   time.Time // when the wait was last reported
	graceEnd     time.Time
}

// A reply is the last answer of a source to the request for pointers.
type reply struct {
	directories []cid.Cid // directories of its pointers
	unknown     bool      // it does not know the trusted IPNS names
	refused     bool      // its answer for every name was untrusted
}

// A Result is the release that was chosen, and where it was found.
type Result struct {
	Verified   *manifest.Verified
	announcers int  // sources that announced the same directory
	dht        bool // the DHT announced it too
	fromCache  bool // only the cache has it
	sources    int  // known sources
	Pointer    peers.Pointer
	Directory  *Directory  // nil when only the metadata was remembered (last good release)
	Memory     *cas.Memory // blocks of the metadata that were read; inner nodes of the artifacts are added
}

// Find returns the newest valid release that can be found. It saves the metadata if the
// cache may be written.
func Find(ctx context.Context, o Options, disc *peers.Discovery, c *cache.Cache) (Result, error) {
	now := time.Now()
	r := &resolver{
		Options: o, disc: disc, cache: c, posted: make(chan func()), endEarly: func() {},
		replies: map[*peers.Source]*reply{}, candidates: map[cid.Cid]*releaseCandidate{}, lastNews: now, began: now, deadline: now.Add(disc.Timeout),
	}
	if disc.Network {
		r.lookEnd = now.Add(disc.Times.LookAround)
	}
	if err := r.search(ctx); err != nil {
		return Result{}, err
	}
	v, err := r.commit(ctx)
	if err == nil {
		r.savePointer()
	}
	known, _ := disc.Sources.Known()
	best := r.best.pointer
	out := Result{Verified: v, sources: len(known), Pointer: best, Directory: r.best.directory, Memory: r.best.pool.Memory, fromCache: r.best == r.cached}
	if cand := r.candidates[best.Directory]; cand != nil {
		for _, ptr := range cand.announcers {
			if ptr.From == nil {
				out.dht = true
			} else {
				out.announcers++
			}
		}
	}
	return out, err
}

// FromCache reports whether no source has sent the release or a newer one.
func (r Result) FromCache() bool { return r.fromCache }

// Save writes the pointer and the metadata of a release that was found without a writable cache. The blocks must be in
// the cache already: a boot without a source then takes this release. The pointer comes first, because the metadata
// of an older pointer would be refused after the others are saved.
func (r Result) Save(ctx context.Context, dir cache.Dir, policy manifest.Policy) (err error) {
	if r.Pointer.Record != nil {
		if err := dir.SaveRecord(r.Pointer.Name, r.Pointer.Record); err != nil {
			return err
		}
	}
	if policy.State, err = manifest.OpenState(dir.Trust()); err != nil {
		return err
	}
	_, err = manifest.Verify(ctx, r.Directory, policy)
	return err
}

// Summary says where the release was found.
func (r Result) Summary() string {
	switch {
	case r.fromCache:
		return "the cache, which is still valid: no source has a newer one"
	case r.announcers == 0:
		return "the DHT"
	case r.dht:
		return fmt.Sprintf("%d of %s and the DHT", r.announcers, report.Count(r.sources, "source"))
	}
	return fmt.Sprintf("%d of %s", r.announcers, report.Count(r.sources, "source"))
}

func (r *resolver) search(ctx context.Context) error {
	work, cancel := context.WithCancel(ctx)
	defer r.readers.Wait()
	defer cancel()
	tick := time.NewTicker(min(timing.SearchTick, r.disc.Times.Grace))
	defer tick.Stop()
	r.searchCache(work)
	for {
		known, more := r.disc.Sources.Known()
		r.pollNew(work, known)
		r.startChecks(work)
		if done, err := r.finished(); done {
			return err
		}
		r.startEarly(work)
		select {
		case handle := <-r.posted:
			handle()
		case ptr := <-r.disc.Pointers:
			r.addPointer(ptr)
		case <-more:
			r.lastNews = time.Now()
		case now := <-tick.C:
			if now.After(r.deadline) {
				return r.timedOut()
			}
			r.reportWait(now)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// post passes the handling of a result to search.
func (r *resolver) post(ctx context.Context, handle func()) {
	select {
	case r.posted <- handle:
	case <-ctx.Done():
	}
}

// startEarly calls Early for the newest valid release so far, once.
func (r *resolver) startEarly(ctx context.Context) {
	if r.best == r.early {
		return
	}
	r.endEarly()
	r.early = r.best
	ctx, r.endEarly = context.WithCancel(ctx)
	best := *r.best
	r.readers.Go(func() { r.Early(ctx, best.v.Release(), best.pool) })
}

// pollNew starts polling each new source.
func (r *resolver) pollNew(ctx context.Context, known []*peers.Source) {
	for _, s := range known {
		if _, asked := r.replies[s]; !asked {
			r.replies[s] = nil
			r.pending++
			go r.poll(ctx, s)
		}
	}
}

func (r *resolver) handleAnswer(a pointerAnswer) {
	if a.first {
		r.pending--
	}
	last := &reply{refused: !a.retry, unknown: errors.Is(a.err, fs.ErrNotExist)}
	r.replies[a.src] = last
	for _, ptr := range a.pointers {
		r.addPointer(ptr)
		last.directories = append(last.directories, ptr.Directory)
	}
	if a.err == nil {
		return
	}
	a.src.NoteError(a.err)
	if a.first && errors.Is(a.err, peers.ErrNoMirror) {
		r.disc.Report.Refuse(a.src.String(), "folder", a.err)
	}
	if r.reportedAt.IsZero() {
		r.reportStatus(time.Now())
	}
	if peers.Rank(a.err) > peers.Rank(fs.ErrNotExist) {
		r.reportRefusal(a.src.String(), "pointer", a.err)
	}
	r.extendDeadline(a.err)
}

// extendDeadline gives the search the time that a busy source asks for.
func (r *resolver) extendDeadline(err error) {
	if busy := (*gateway.BusyError)(nil); errors.As(err, &busy) {
		due := time.Now().Add(r.disc.Times.RetryAfter(busy.After) + r.disc.Times.AskMax)
		if end := r.began.Add(r.disc.Patience); due.After(end) {
			due = end
		}
		if due.After(r.deadline) {
			r.deadline = due
		}
	}
}

// standing returns the standing of a source in the search.
func (r *resolver) standing(s *peers.Source) peers.Standing {
	last := r.replies[s]
	switch {
	case s.IsBanned():
		return peers.Refused
	case s.BlocksOnly(), s.Kind == peers.KindBootstrap && errors.Is(s.LastError(), p2p.ErrNoSource):
		return peers.NotASource // it cannot have pointers
	case last == nil:
		return peers.OutOfReach
	case last.unknown && !s.Named():
		return peers.NotASource // a peer with another repository
	case len(last.directories) == 0 && last.refused, len(last.directories) > 0 && !slices.ContainsFunc(last.directories, r.undecided):
		return peers.Refused
	}
	return peers.OutOfReach
}

// finished reports whether the search is over: all sources have answered or graceEnd has
// passed, but not before lookEnd; or all sources were refused. The error is the worst refusal.
func (r *resolver) finished() (bool, error) {
	quiet := r.pending == 0 && r.checking == 0
	if r.best != nil {
		return time.Now().After(r.lookEnd) && (quiet || time.Now().After(r.graceEnd)), nil
	}
	if r.mayUseCache(time.Since(r.began) > r.disc.Times.CacheGrace) {
		r.best = r.cached
		return true, nil
	}
	if r.readingCache {
		return false, nil
	}
	if r.disc.Isolated {
		return true, fmt.Errorf("network: %w: %w; connect one, or load its driver", peers.ErrNoInterface, cas.ErrUnreachable)
	}
	if known, _ := r.disc.Sources.Known(); len(known) == 0 && !r.disc.Network {
		return true, r.notFound("no source to ask")
	}
	if r.worst == nil || !quiet || !r.disc.Settled(r.lastNews, r.standing) {
		return false, nil
	}
	return true, r.worst
}

// timedOut ends a search at its deadline: with the best release so far, else with the worst
// refusal, else with the status of the sources.
func (r *resolver) timedOut() error {
	if r.best == nil {
		r.best = r.cached
	}
	if r.best != nil {
		return nil
	}
	if r.worst != nil {
		return fmt.Errorf("%w; no other source sent a release within %s (%s)", r.worst, r.searchTime(), r.disc.Status())
	}
	if n := r.countStrangers(); n > 0 && n == len(r.replies) && len(r.candidates) == 0 {
		return fmt.Errorf("channel %q for %q: %w: %s; %s answered, none knows this repository's name %s: check the address of the mirror with its path; is it the right root.json?",
			r.Policy().Channel, r.Policy().Arch, cas.ErrUnreachable, r.disc.Status(), report.Count(n, "source"), strings.Join(r.Names, ", "))
	}
	return r.notFound(fmt.Sprintf("no source sent it within %s", r.searchTime()))
}

// searchTime returns the length of the search.
func (r *resolver) searchTime() time.Duration { return r.deadline.Sub(r.began) }

// reportWait prints from time to time why there is no release yet.
func (r *resolver) reportWait(now time.Time) {
	switch first := r.began.Add(r.disc.Times.SayAfter); {
	case now.Before(first):
	case r.reportedAt.Before(first), now.Sub(r.reportedAt) >= r.disc.Times.SayAgain:
		r.reportStatus(now)
	}
}

func (r *resolver) reportStatus(now time.Time) {
	if r.best != nil {
		return
	}
	r.reportedAt = now
	r.disc.Report.Say("resolve: searching (up to %s): %s", r.searchTime(), r.disc.Status())
}

// countStrangers counts the sources that do not know the trusted names.
func (r *resolver) countStrangers() (n int) {
	for _, last := range r.replies {
		if last != nil && last.unknown {
			n++
		}
	}
	return n
}

func (r *resolver) notFound(what string) error {
	return fmt.Errorf("channel %q for %q: %w: %s (%s); check the network, or name a source with %s or %s",
		r.Policy().Channel, r.Policy().Arch, cas.ErrUnreachable, what, r.disc.Status(), r.disc.Argument("mirror"), r.disc.Argument("peer"))
}

// commit verifies the chosen release again, from memory, and saves its metadata.
func (r *resolver) commit(ctx context.Context) (*manifest.Verified, error) {
	for _, n := range r.best.v.Notes() {
		r.disc.Report.Refuse("saved metadata", "file", errors.New(n))
	}
	if r.cache.Dir != "" && r.best.v.First() {
		r.disc.Report.Begin("state").Done("no saved metadata of this repository: only the root and the date of the image limit how old a release may be")
	}
	if r.cache.Dir == "" || !r.SaveState {
		return r.best.v, nil
	}
	policy := r.Policy()
	var err error
	if policy.State, err = manifest.OpenState(r.cache.Dir.Trust()); err != nil {
		r.disc.Report.Refuse("cache", "saving the release", fmt.Errorf("%w; an older release is not recognized next time", err))
		return r.best.v, nil
	}
	v, err := manifest.Verify(ctx, r.best.directory, policy)
	if err == nil {
		for _, n := range v.Notes() {
			if !slices.Contains(r.best.v.Notes(), n) {
				r.disc.Report.Refuse("cache", "saving the release", errors.New(n))
			}
		}
	}
	return v, err
}

// savePointer saves the record of the chosen release if the cache may be written.
func (r *resolver) savePointer() {
	best := r.best.pointer
	if best.Record == nil || !r.cache.Writable() {
		return
	}
	if err := r.cache.Dir.SaveRecord(best.Name, best.Record); err != nil {
		r.disc.Report.Refuse("cache", "saving the pointer", err)
	}
}
