package bootclient

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	grace      = 500 * time.Millisecond // for a newer head, once a valid one is known
	lookAround = 700 * time.Millisecond // for one from the LAN or the DHT, from the beginning
	settle     = 3 * time.Second        // for another source, once all known ones were refused
	sayAfter   = 3 * time.Second        // without a release, what is waited for is told
	checkLimit = 30 * time.Second       // for the metadata of one head
	checkPause = time.Second            // before a folder whose blocks nobody gave is tried again
	maxFolders = 64                     // different ones looked at
	maxNamers  = 32                     // heads remembered of one
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

	asking   map[*source]bool
	unknown  map[*source]bool // they answered that they do not know our names
	pending  int              // sources that have not answered yet
	checking int              // folders under way
	folders  map[cid.Cid]*lead
	best     *verdict
	refused  error     // the most telling refusal
	calm     time.Time // when something was last learnt
	lookEnd  time.Time // who answers first may not be the newest
	began    time.Time
	waited   bool   // long enough to have said so
	said     string // of what is waited for
	graceEnd time.Time
}

// A lead is a metadata folder that somebody pointed to, until there is a verdict.
type lead struct {
	namers  []head
	tried   int // namers whose word has been followed
	running bool
	judged  bool // for good
	retry   time.Time
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
	all    int     // sources known
	head   head
	folder *folder // nil when the release is remembered and nothing more
}

// resolve returns the newest valid release that can be found, and remembers its
// metadata when there is a cache that may be written.
func resolve(ctx context.Context, cfg Config, disc *discovery, c *cache, names []string) (resolution, error) {
	r := &resolver{
		cfg: cfg, disc: disc, cache: c, names: names,
		asked: make(chan heard), verdicts: make(chan verdict),
		asking: map[*source]bool{}, unknown: map[*source]bool{}, folders: map[cid.Cid]*lead{}, calm: time.Now(), began: time.Now(),
	}
	if disc.network {
		r.lookEnd = time.Now().Add(lookAround)
	}
	limited, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	if err := r.run(limited); err != nil {
		return resolution{}, err
	}
	v, err := r.commit(ctx)
	known, _ := disc.hub.known()
	best := r.best.head
	out := resolution{v: v, from: best.from, all: len(known), head: best, folder: r.best.folder}
	for _, h := range r.folders[best.folder].namers {
		out.same += number(h.from != nil)
		out.dht = out.dht || h.from == nil
	}
	return out, err
}

// words says who gave it.
func (r resolution) words() string {
	switch {
	case r.same == 0:
		return "the DHT"
	case r.dht:
		return fmt.Sprintf("%d of %s and the DHT", r.same, count(r.all, "source"))
	}
	return fmt.Sprintf("%d of %s", r.same, count(r.all, "source"))
}

func (r *resolver) run(ctx context.Context) error {
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		known, more := r.disc.hub.known()
		if len(known) == 0 && !r.disc.network {
			return r.nobody("nowhere to look")
		}
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
		case h := <-r.disc.heard:
			r.consider(h)
		case <-more:
			r.calm = time.Now()
		case <-tick.C:
			if !r.waited && time.Since(r.began) > sayAfter {
				r.waited = true
				r.waits()
			}
		case <-ctx.Done():
			if r.best != nil && ctx.Err() != context.Canceled {
				return nil
			}
			return r.timedOut(ctx)
		}
	}
}

// askNew starts a questioner for each source that has none.
func (r *resolver) askNew(ctx context.Context, known []*source) {
	for _, s := range known {
		if !r.asking[s] {
			r.asking[s] = true
			r.pending++
			go r.question(ctx, s)
		}
	}
}

func (r *resolver) answered(a heard) {
	if a.first {
		r.pending--
	}
	for _, h := range a.heads {
		r.consider(h)
	}
	if len(a.heads) > 0 {
		return
	}
	a.src.note(a.err)
	if r.said == "" {
		r.waits()
	}
	r.unknown[a.src] = errors.Is(a.err, fs.ErrNotExist)
	if errors.Is(a.err, manifest.ErrUntrusted) {
		r.refuse(a.src.String(), "head", a.err)
	}
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
		go func() {
			v := r.check(ctx, h)
			select {
			case r.verdicts <- v:
			case <-ctx.Done():
			}
		}()
	}
}

// pick takes the next namer of a lead that is of use: not banned, or the DHT once
// somebody is there who may have the blocks.
func (r *resolver) pick(l *lead) (head, bool) {
	for range l.namers {
		h := l.namers[l.tried%len(l.namers)]
		l.tried++
		if h.from == nil && len(pool{hub: r.disc.hub}.candidates()) > 0 {
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
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	f := newFolder(h.folder, pool{hub: r.disc.hub, cache: r.cache, prefer: h.from})
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
		if errors.Is(v.err, cas.ErrUnreachable) || errors.Is(v.err, cas.ErrCorrupt) {
			// the blocks were missing or wrong: another source may have them
			l.judged = false
			if l.tried >= len(l.namers) {
				l.retry = time.Now().Add(checkPause)
			}
		}
		r.refuse(v.head.source(), fmt.Sprintf("head %d", v.head.seq), v.err)
	case r.best == nil:
		r.best, r.graceEnd = &v, time.Now().Add(grace)
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
	if rank(err) > rank(r.refused) {
		r.refused = fmt.Errorf("%s: %w", source, err)
	}
}

// rank orders refusals by how much they tell.
func rank(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, manifest.ErrUntrusted):
		return 5
	case errors.Is(err, cas.ErrCorrupt), errors.Is(err, manifest.ErrMalformed):
		return 4
	case errors.Is(err, fs.ErrNotExist):
		return 3
	case errors.Is(err, cas.ErrUnreachable):
		return 1
	default:
		return 2
	}
}

// finished decides whether to stop: with the best so far when nobody else is still
// being asked or the grace is over, but not before neighbours had a moment to speak; with the refusal when all are refused and no
// other source turns up.
func (r *resolver) finished() (bool, error) {
	quiet := r.pending == 0 && r.checking == 0
	if r.best != nil {
		return time.Now().After(r.lookEnd) && (quiet || time.Now().After(r.graceEnd)), nil
	}
	if rank(r.refused) <= 1 || !quiet || (r.disc.network && time.Since(r.calm) < settle) {
		return false, nil
	}
	return true, r.refused
}

// timedOut is the error of a search that the clock ended.
func (r *resolver) timedOut(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	if rank(r.refused) > 1 {
		return r.refused
	}
	if n := r.strange(); n > 0 && n == len(r.asking) && len(r.folders) == 0 {
		return fmt.Errorf("channel %q for %q: %w: %s answered, none knows this repository's name %s; is it the right root.json?",
			r.cfg.Channel, r.cfg.Arch, cas.ErrUnreachable, count(n, "source"), strings.Join(r.names, ", "))
	}
	return r.nobody(fmt.Sprintf("no source gave it in %s", r.cfg.Timeout))
}

// waits tells who watches why there is no release yet.
func (r *resolver) waits() {
	words := r.disc.tried()
	if r.best != nil || words == r.said {
		return
	}
	r.said = words
	r.cfg.Report.Say("resolve: looks for sources, for up to %s: %s", r.cfg.Timeout, words)
}

// strange counts the sources that do not know our names.
func (r *resolver) strange() (n int) {
	for _, yes := range r.unknown {
		n += number(yes)
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
		r.cfg.Report.Refuse("cache", "remembering the release", err)
		return r.best.v, nil
	}
	return manifest.Verify(ctx, r.best.folder, policy)
}
