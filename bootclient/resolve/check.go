package resolve

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// A releaseCandidate is a metadata directory that a pointer names, until it is verified or refused.
type releaseCandidate struct {
	announcers []peers.Pointer
	tried      int // announcers that were tried
	running    bool
	final      bool // the result is final
	failures   int  // how often no source sent its blocks
	retry      time.Time
}

type checkResult struct {
	pointer   peers.Pointer
	directory *Directory
	pool      peers.Pool // what directory is read from
	v         *manifest.Verified
	err       error
}

// undecided reports whether a directory may still turn out to be valid.
func (r *resolver) undecided(folder cid.Cid) bool {
	cand := r.candidates[folder]
	return cand != nil && !cand.final
}

// addPointer adds a pointer to the announcers of its candidate.
func (r *resolver) addPointer(ptr peers.Pointer) {
	cand := r.candidates[ptr.Directory]
	if cand == nil {
		if len(r.candidates) >= maxDirectories && !r.dropOlder(ptr.Seq) {
			return
		}
		cand = &releaseCandidate{}
		r.candidates[ptr.Directory] = cand
		r.lastNews = time.Now()
	}
	same := func(o peers.Pointer) bool { return o.From == ptr.From }
	if len(cand.announcers) < maxAnnouncers && !slices.ContainsFunc(cand.announcers, same) {
		cand.announcers = append(cand.announcers, ptr)
		cand.retry = time.Time{}
	}
}

// dropOlder makes room for a newer pointer. Old pointers have valid signatures, so any source can
// send many of them.
func (r *resolver) dropOlder(seq uint64) bool {
	for folder, cand := range r.candidates {
		old := !slices.ContainsFunc(cand.announcers, func(ptr peers.Pointer) bool { return ptr.Seq >= seq })
		if old && !cand.running && (r.best == nil || r.best.pointer.Directory != folder) {
			delete(r.candidates, folder)
			return true
		}
	}
	return false
}

// startChecks starts the check of every candidate that is due.
func (r *resolver) startChecks(ctx context.Context) {
	for _, cand := range r.candidates {
		if cand.running || cand.final || time.Now().Before(cand.retry) {
			continue
		}
		ptr, ok := r.nextAnnouncer(cand)
		if !ok {
			continue
		}
		cand.running = true
		r.checking++
		r.readers.Go(func() {
			v := r.check(ctx, ptr)
			r.post(ctx, func() { r.checked(v) })
		})
	}
}

// nextAnnouncer returns the next usable announcer of a candidate: a source that is not banned,
// or the DHT if a source is open that may have the blocks.
func (r *resolver) nextAnnouncer(cand *releaseCandidate) (peers.Pointer, bool) {
	for range cand.announcers {
		ptr := cand.announcers[cand.tried%len(cand.announcers)]
		cand.tried++
		if ptr.From == nil && len(peers.Pool{Sources: r.disc.Sources}.Usable()) > 0 {
			return ptr, true
		}
		if ptr.From != nil && !ptr.From.IsBanned() {
			return ptr, true
		}
	}
	return peers.Pointer{}, false
}

// check verifies a candidate against the saved state, and does not change that state.
func (r *resolver) check(ctx context.Context, ptr peers.Pointer) checkResult {
	ctx, cancel := context.WithTimeout(ctx, r.disc.Times.CheckLimit)
	defer cancel()
	return r.verify(ctx, ptr, peers.Pool{Sources: r.disc.Sources, Cache: r.cache, Prefer: ptr.From})
}

func (r *resolver) verify(ctx context.Context, ptr peers.Pointer, src peers.Pool) checkResult {
	src.Memory = cas.NewMemory()
	policy := r.Policy()
	md := &Directory{root: ptr.Directory, src: src, memory: src.Memory, roles: rolesOf(policy)}
	ctx, cancel := context.WithCancel(ctx)
	v, err := manifest.Verify(ctx, md, policy)
	cancel()
	md.reading.Wait()
	return checkResult{ptr, md, src, v, err}
}

// rolesOf lists the roles whose metadata a check reads.
func rolesOf(p manifest.Policy) []string {
	roles := []string{"timestamp", "snapshot", "targets", manifest.ConfigRole}
	if role, err := manifest.RoleName(p.Channel, p.Arch); err == nil {
		roles = append(roles, role)
	}
	return roles
}

// checked handles the result of a check: it keeps the newest valid release and reports the others.
func (r *resolver) checked(v checkResult) {
	cand := r.candidates[v.pointer.Directory]
	cand.running, cand.final = false, true
	r.checking--
	r.lastNews = time.Now()
	switch {
	case v.err != nil:
		if errors.As(v.err, new(*peers.MissingBlock)) { // another source may have the block
			cand.final = false
			if cand.tried >= len(cand.announcers) {
				cand.retry = time.Now().Add(timing.Growing(r.disc.Times.AskFirst, cand.failures, r.disc.Times.AskMax))
				cand.failures++
			}
		}
		r.reportRefusal(v.pointer.Announcer(), fmt.Sprintf("pointer %d", v.pointer.Seq), v.err)
	case r.best == nil:
		r.best, r.graceEnd = &v, time.Now().Add(r.disc.Times.Grace)
	case Newer(v.v, r.best.v):
		r.reportOlder(*r.best, v)
		r.best = &v
	default:
		r.reportOlder(v, *r.best)
	}
}

func (r *resolver) reportOlder(old, newer checkResult) {
	r.disc.Report.Refuse(old.pointer.Announcer(), fmt.Sprintf("pointer %d", old.pointer.Seq),
		fmt.Errorf("older than root version %d, timestamp version %d from %s", newer.v.RootVersion(), newer.v.TimestampVersion(), newer.pointer.Announcer()))
}

// Newer reports whether a is newer than b. The root version decides first: a thief of a revoked
// online key can withhold the newer root and sign any timestamp version.
func Newer(a, b *manifest.Verified) bool {
	if a.RootVersion() != b.RootVersion() {
		return a.RootVersion() > b.RootVersion()
	}
	return a.TimestampVersion() > b.TimestampVersion()
}

func (r *resolver) reportRefusal(source, what string, err error) {
	if peers.Rank(err) <= 1 {
		return // an unreachable source is not refused
	}
	r.disc.Report.Refuse(source, what, err)
	r.worst = peers.Worse(r.worst, fmt.Errorf("%s: %w", source, err))
}
