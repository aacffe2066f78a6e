package bootclient

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

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	searchTick = 50 * time.Millisecond // between looks at what is due
	maxFolders = 64                    // different ones looked at
	maxNamers  = 32                    // heads remembered of one
)

// A resolver finds the newest valid release: it asks every source for its heads,
// checks each different folder once, all at the same time, and keeps the newest.
// Its fields belong to the goroutine that runs it.
type resolver struct {
	cfg   Config
	disc  *discovery
	cache *cache
	names []string // trusted IPNS names

	asked    chan heard
	verdicts chan verdict

	asking    map[*source]*reply // what each source said last; nil before it said anything
	pending   int                // sources that have not answered yet
	checking  int                // folders under way
	folders   map[cid.Cid]*lead
	best      *verdict
	kept      *verdict // of the cache alone
	recalled  chan verdict
	recalling bool           // the cache is being looked at
	readers   sync.WaitGroup // goroutines that read the cache, which is closed after the search
	worst     error          // the most telling thing that anybody sent
	calm      time.Time      // when something was last learnt
	lookEnd   time.Time      // who answers first may not be the newest
	deadline  time.Time
	began     time.Time
	told      time.Time // when it was last said who is waited for
	graceEnd  time.Time
}

// A reply is what a source said last of its heads.
type reply struct {
	folders []cid.Cid // of its heads
	unknown bool      // it does not know our names
	refused bool      // no name is left that it may still answer for
}

// A lead is a metadata folder that somebody pointed to, until there is a verdict.
type lead struct {
	namers   []head
	tried    int // namers whose word has been followed
	running  bool
	judged   bool // for good
	failures int  // times that nobody gave its blocks
	retry    time.Time
}

type verdict struct {
	head   head
	folder *folder
	v      *manifest.Verified
	err    error
}

// A resolution is the release that won, and how many sources gave it.
type resolution struct {
	v      *manifest.Verified
	from   *source // nil when the DHT alone pointed to it
	same   int     // sources that named the same folder
	dht    bool    // and so did the DHT
	kept   bool    // the cache alone has it
	all    int     // sources known
	head   head
	folder *folder // nil when the release is remembered and nothing more
}

// resolve returns the newest valid release that can be found, and remembers its
// metadata when there is a cache that may be written.
func resolve(ctx context.Context, cfg Config, disc *discovery, c *cache, names []string) (resolution, error) {
	now := time.Now()
	r := &resolver{
		cfg: cfg, disc: disc, cache: c, names: names,
		asked: make(chan heard), verdicts: make(chan verdict), recalled: make(chan verdict),
		asking: map[*source]*reply{}, folders: map[cid.Cid]*lead{}, calm: now, began: now, deadline: now.Add(cfg.Timeout),
	}
	if disc.network {
		r.lookEnd = now.Add(cfg.times.lookAround)
	}
	if err := r.run(ctx); err != nil {
		return resolution{}, err
	}
	v, err := r.commit(ctx)
	known, _ := disc.sources.known()
	best := r.best.head
	out := resolution{v: v, from: best.from, all: len(known), head: best, folder: r.best.folder, kept: r.best == r.kept}
	if l := r.folders[best.folder]; l != nil {
		for _, h := range l.namers {
			out.same += number(h.from != nil)
			out.dht = out.dht || h.from == nil
		}
	}
	return out, err
}

// words says who gave it.
func (r resolution) words() string {
	switch {
	case r.kept:
		return "the cache, which is valid still: no source gave a newer one"
	case r.same == 0:
		return "the DHT"
	case r.dht:
		return fmt.Sprintf("%d of %s and the DHT", r.same, count(r.all, "source"))
	}
	return fmt.Sprintf("%d of %s", r.same, count(r.all, "source"))
}

func (r *resolver) run(ctx context.Context) error {
	work, cancel := context.WithCancel(ctx)
	defer r.readers.Wait()
	defer cancel()
	tick := time.NewTicker(min(searchTick, r.cfg.times.grace))
	defer tick.Stop()
	r.askCache(work)
	for {
		known, more := r.disc.sources.known()
		r.askNew(work, known)
		r.followLeads(work)
		if done, err := r.finished(); done {
			return err
		}
		select {
		case a := <-r.asked:
			r.answered(a)
		case v := <-r.verdicts:
			r.judged(v)
		case v := <-r.recalled:
			if r.recalling = false; v.err == nil {
				r.kept = &v
			}
		case h := <-r.disc.heard:
			r.consider(h)
		case <-more:
			r.calm = time.Now()
		case now := <-tick.C:
			if now.After(r.deadline) {
				return r.timedOut()
			}
			r.waits(now)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// askNew starts a questioner for each source that has none.
func (r *resolver) askNew(ctx context.Context, known []*source) {
	for _, s := range known {
		if _, asked := r.asking[s]; !asked {
			r.asking[s] = nil
			r.pending++
			go r.question(ctx, s)
		}
	}
}

func (r *resolver) answered(a heard) {
	if a.first {
		r.pending--
	}
	said := &reply{refused: !a.later, unknown: errors.Is(a.err, fs.ErrNotExist)}
	r.asking[a.src] = said
	for _, h := range a.heads {
		r.consider(h)
		said.folders = append(said.folders, h.folder)
	}
	if a.err == nil {
		return
	}
	a.src.note(a.err)
	if a.first && errors.Is(a.err, errNoMirror) {
		r.cfg.Report.Refuse(a.src.String(), "folder", a.err)
	}
	if r.told.IsZero() {
		r.tell(time.Now())
	}
	if rank(a.err) > rank(fs.ErrNotExist) {
		r.refuse(a.src.String(), "head", a.err)
	}
	r.bePatient(a.err)
}

// bePatient gives the search the time that a busy source asks for, as a fetch would.
func (r *resolver) bePatient(err error) {
	if busy := (*gateway.BusyError)(nil); errors.As(err, &busy) {
		due := time.Now().Add(r.cfg.times.retryAfter(busy.After) + r.cfg.times.askMax)
		if end := r.began.Add(r.cfg.Patience); due.After(end) {
			due = end
		}
		if due.After(r.deadline) {
			r.deadline = due
		}
	}
}

// standing is what a source's heads are worth.
func (r *resolver) standing(s *source) standing {
	said := r.asking[s]
	switch {
	case s.isBanned():
		return refused
	case s.last(), s.kind == kindBootstrap && errors.Is(s.lastError(), p2p.ErrNoSource):
		return noSource // it can have no heads
	case said == nil:
		return outOfReach
	case said.unknown && !s.named():
		return noSource // a neighbour of another repository
	case len(said.folders) == 0 && said.refused, len(said.folders) > 0 && !slices.ContainsFunc(said.folders, r.open):
		return refused
	}
	return outOfReach
}

// open reports whether a folder may still turn out to be good.
func (r *resolver) open(folder cid.Cid) bool {
	l := r.folders[folder]
	return l != nil && !l.judged
}

// consider takes a head as a lead to its folder.
func (r *resolver) consider(h head) {
	l := r.folders[h.folder]
	if l == nil {
		if len(r.folders) >= maxFolders && !r.forgetOlder(h.seq) {
			return
		}
		l = &lead{}
		r.folders[h.folder] = l
		r.calm = time.Now()
	}
	same := func(o head) bool { return o.from == h.from }
	if len(l.namers) < maxNamers && !slices.ContainsFunc(l.namers, same) {
		l.namers = append(l.namers, h)
		l.retry = time.Time{}
	}
}

// forgetOlder makes room for a newer head: old ones, all of them signed, are there for
// everybody to send again.
func (r *resolver) forgetOlder(seq uint64) bool {
	for folder, l := range r.folders {
		old := !slices.ContainsFunc(l.namers, func(h head) bool { return h.seq >= seq })
		if old && !l.running && (r.best == nil || r.best.head.folder != folder) {
			delete(r.folders, folder)
			return true
		}
	}
	return false
}

// followLeads starts the check of every folder that is due.
func (r *resolver) followLeads(ctx context.Context) {
	for _, l := range r.folders {
		if l.running || l.judged || time.Now().Before(l.retry) {
			continue
		}
		h, ok := r.pick(l)
		if !ok {
			continue
		}
		l.running = true
		r.checking++
		r.readers.Go(func() {
			v := r.check(ctx, h)
			select {
			case r.verdicts <- v:
			case <-ctx.Done():
			}
		})
	}
}

// pick takes the next namer of a lead that is of use: not banned, or the DHT once
// somebody is there who may have the blocks.
func (r *resolver) pick(l *lead) (head, bool) {
	for range l.namers {
		h := l.namers[l.tried%len(l.namers)]
		l.tried++
		if h.from == nil && len(pool{sources: r.disc.sources}.usable()) > 0 {
			return h, true
		}
		if h.from != nil && !h.from.isBanned() {
			return h, true
		}
	}
	return head{}, false
}

// check verifies a folder against the remembered state, which it does not change.
func (r *resolver) check(ctx context.Context, h head) verdict {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.times.checkLimit)
	defer cancel()
	return r.verify(ctx, h, pool{sources: r.disc.sources, cache: r.cache, prefer: h.from})
}

func (r *resolver) verify(ctx context.Context, h head, src cas.Source) verdict {
	f := newFolder(h.folder, src)
	policy := r.policy()
	if r.cfg.Cache != "" {
		policy.State = manifest.OpenStateReadOnly(r.cfg.trustDir())
	}
	v, err := manifest.Verify(ctx, f, policy)
	return verdict{head: h, folder: f, v: v, err: err}
}

func (r *resolver) policy() manifest.Policy {
	return manifest.Policy{Root: r.cfg.Root, Channel: r.cfg.Channel, Arch: r.cfg.Arch, Now: r.cfg.Now(), Floor: r.cfg.Floor}
}

// judged keeps the newest valid release and remembers why the others were refused.
func (r *resolver) judged(v verdict) {
	l := r.folders[v.head.folder]
	l.running, l.judged = false, true
	r.checking--
	r.calm = time.Now()
	switch {
	case v.err != nil:
		if errors.As(v.err, new(*missingBlock)) { // another source may have the block
			l.judged = false
			if l.tried >= len(l.namers) {
				l.retry = time.Now().Add(growing(r.cfg.times.askFirst, l.failures, r.cfg.times.askMax))
				l.failures++
			}
		}
		r.refuse(v.head.source(), fmt.Sprintf("head %d", v.head.seq), v.err)
	case r.best == nil:
		r.best, r.graceEnd = &v, time.Now().Add(r.cfg.times.grace)
	case newer(v.v, r.best.v):
		r.older(*r.best, v)
		r.best = &v
	default:
		r.older(v, *r.best)
	}
}

func (r *resolver) older(old, newer verdict) {
	r.cfg.Report.Refuse(old.head.source(), fmt.Sprintf("head %d", old.head.seq),
		fmt.Errorf("older than root version %d, timestamp version %d from %s", newer.v.RootVersion(), newer.v.TimestampVersion(), newer.head.source()))
}

// newer reports whether a is newer than b. The root decides first: who withholds one may
// hold a key that it revoked, and set the versions below it as high as he likes.
func newer(a, b *manifest.Verified) bool {
	if a.RootVersion() != b.RootVersion() {
		return a.RootVersion() > b.RootVersion()
	}
	return a.TimestampVersion() > b.TimestampVersion()
}

func (r *resolver) refuse(source, what string, err error) {
	if rank(err) <= 1 {
		return // out of reach, which is no refusal
	}
	r.cfg.Report.Refuse(source, what, err)
	r.worst = worse(r.worst, fmt.Errorf("%s: %w", source, err))
}

// finished decides whether to stop: with the best so far when nobody else is still being
// asked or the grace is over, but not before neighbours had a moment to speak; with the
// worst that was sent when all sources are refused.
func (r *resolver) finished() (bool, error) {
	quiet := r.pending == 0 && r.checking == 0
	if r.best != nil {
		return time.Now().After(r.lookEnd) && (quiet || time.Now().After(r.graceEnd)), nil
	}
	if r.mayRecall(time.Since(r.began) > r.cfg.times.cacheGrace) {
		r.best = r.kept
		return true, nil
	}
	if r.recalling {
		return false, nil
	}
	if r.disc.isolated {
		return true, fmt.Errorf("network: %w: %w; connect one, or load its driver", ErrNoInterface, cas.ErrUnreachable)
	}
	if known, _ := r.disc.sources.known(); len(known) == 0 && !r.disc.network {
		return true, r.nobody("nowhere to look")
	}
	if r.worst == nil || !quiet || !r.disc.settled(r.calm, r.standing) {
		return false, nil
	}
	return true, r.worst
}

// timedOut ends a search by the clock: with the best so far, with the worst that anybody
// sent, or with the words of those who are still waited for.
func (r *resolver) timedOut() error {
	if r.best == nil {
		r.best = r.kept
	}
	if r.best != nil {
		return nil
	}
	if r.worst != nil {
		return fmt.Errorf("%w; no other source gave a release in %s (%s)", r.worst, r.took(), r.disc.tried())
	}
	if n := r.strange(); n > 0 && n == len(r.asking) && len(r.folders) == 0 {
		return fmt.Errorf("channel %q for %q: %w: %s; %s answered, none knows this repository's name %s: check the address of the mirror with its path; is it the right root.json?",
			r.cfg.Channel, r.cfg.Arch, cas.ErrUnreachable, r.disc.tried(), count(n, "source"), strings.Join(r.names, ", "))
	}
	return r.nobody(fmt.Sprintf("no source gave it in %s", r.took()))
}

// took is how long the search had.
func (r *resolver) took() time.Duration { return r.deadline.Sub(r.began) }

// waits tells who watches why there is no release yet, again and again.
func (r *resolver) waits(now time.Time) {
	switch first := r.began.Add(r.cfg.times.sayAfter); {
	case now.Before(first):
	case r.told.Before(first), now.Sub(r.told) >= r.cfg.times.sayAgain:
		r.tell(now)
	}
}

func (r *resolver) tell(now time.Time) {
	if r.best != nil {
		return
	}
	r.told = now
	r.cfg.Report.Say("resolve: looks for sources, for up to %s: %s", r.took(), r.disc.tried())
}

// strange counts the sources that do not know our names.
func (r *resolver) strange() (n int) {
	for _, said := range r.asking {
		n += number(said != nil && said.unknown)
	}
	return n
}

func (r *resolver) nobody(what string) error {
	return fmt.Errorf("channel %q for %q: %w: %s (%s); check the network, or name a source with --mirror or --peer (phase.mirror=, phase.peer=)",
		r.cfg.Channel, r.cfg.Arch, cas.ErrUnreachable, what, r.disc.tried())
}

// commit checks the winner once more, from memory, and this time the state
// remembers it.
func (r *resolver) commit(ctx context.Context) (*manifest.Verified, error) {
	for _, n := range r.best.v.Notes() {
		r.cfg.Report.Refuse("remembered metadata", "file", errors.New(n))
	}
	if r.cfg.Cache != "" && r.best.v.First() {
		r.cfg.Report.Begin("state").Done("nothing is remembered of this repository: only the image's own root and date say what is too old")
	}
	if r.cfg.Cache == "" || r.cfg.Mode.Cache != "rw" {
		return r.best.v, nil
	}
	policy := r.policy()
	var err error
	if policy.State, err = manifest.OpenState(r.cfg.trustDir()); err != nil {
		r.cfg.Report.Refuse("cache", "remembering the release", fmt.Errorf("%w; an older release cannot be told next time", err))
		return r.best.v, nil
	}
	v, err := manifest.Verify(ctx, r.best.folder, policy)
	if err == nil {
		for _, n := range v.Notes() {
			if !slices.Contains(r.best.v.Notes(), n) {
				r.cfg.Report.Refuse("cache", "remembering the release", errors.New(n))
			}
		}
	}
	return v, err
}
