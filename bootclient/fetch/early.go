package fetch

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// earlyBytes limits the leaves that are fetched before the release is chosen: when more has come, no
// further leaf is requested. Machines that start together do not know each other yet, so that the
// publisher sends as much to each of them.
const earlyBytes = 256 << 10

// An Early fetches a few leaves of the newest release so far, while the search for a newer one
// goes on. It keeps them in memory: [All] writes those that the chosen release has, and the
// others are dropped.
type Early struct {
	disc   *peers.Discovery
	sink   Sink
	leaves *cas.Memory

	running sync.Mutex // held by Fetch
	left    int64      // bytes that may still be fetched
}

// NewEarly returns an Early for a sink, which it does not open.
func NewEarly(disc *peers.Discovery, sink Sink) *Early {
	return &Early{disc: disc, sink: sink, leaves: cas.NewMemory(), left: earlyBytes}
}

// Fetch reads the inner nodes of a release into the memory of src, and then leaves, one at a time,
// from the first usable source that is not one of last resort. It ends with ctx, after an error, and
// when all calls together have fetched more than earlyBytes. Its errors do not matter: the fetch itself requests
// what is missing.
func (e *Early) Fetch(ctx context.Context, r manifest.Release, src peers.Pool) {
	e.running.Lock()
	defer e.running.Unlock()
	for _, at := range e.list(ctx, r, src) {
		c := at.info().CID
		if has, _ := e.leaves.Has(ctx, c); has || src.Cache.IsOpen() && src.Cache.Has(ctx, c) {
			continue
		}
		sources := slices.DeleteFunc(src.Usable(), (*peers.Source).BlocksOnly)
		if e.left < 0 || len(sources) == 0 || !e.fetchLeaf(ctx, sources[0], at) {
			return
		}
	}
}

// list reads the inner nodes of a release. It lists the leaves in a random order, so that the early
// leaves of two machines are seldom the same, and without those of which the sink may have a copy.
// It skips device trees, of which a boot loads one at most, and the boot set.
func (e *Early) list(ctx context.Context, r manifest.Release, src peers.Pool) (list []position) {
	for _, a := range r.Artifacts {
		if strings.HasPrefix(a.Role, "dtb/") || manifest.IsBootSet(a.Role) {
			continue
		}
		leaves, err := listLeaves(ctx, src, a.CID, a.Length)
		if err != nil {
			return nil
		}
		if s, ok := e.sink.(earlierSink); ok {
			if f := s.Earlier(a.Role); f != nil {
				f.Close()
				continue
			}
		}
		dl := &download{Artifact: a, leaves: leaves}
		for i := range leaves {
			list = append(list, position{dl, i})
		}
	}
	rand.Shuffle(len(list), func(i, k int) { list[i], list[k] = list[k], list[i] })
	return list
}

// fetchLeaf fetches a leaf. It reports whether another one may be fetched: the leaf came, or its
// source is banned now.
func (e *Early) fetchLeaf(ctx context.Context, s *peers.Source, at position) bool {
	data, err := cas.Get(ctx, s, at.info().CID)
	if err != nil {
		return recordError(ctx, e.disc.Report, s, at.download.Role, err)
	}
	s.Delivered(len(data))
	e.left -= int64(len(data))
	return e.leaves.Put(context.WithoutCancel(ctx), at.info().CID, data) == nil
}

// fromEarly writes the leaves that were fetched early.
func (f *fetcher) fromEarly(ctx context.Context) error {
	if f.Early == nil {
		return nil
	}
	wanted := f.wanted()
	for c, data := range f.Early.leaves.All() {
		if _, err := f.takeWanted(ctx, wanted, c, data); err != nil {
			return err
		}
	}
	return nil
}
