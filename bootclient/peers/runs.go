package peers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
)

// Requests for many leaves at once: as a run, which is a CAR, or as a range of the whole file. A source that does not
// answer them is asked for single blocks.

// maxEmptyRanges is how many ranges in a row may end before their first leaf, before single blocks are
// requested: a server or a proxy may cut every longer answer, or fail at every request for a range.
const maxEmptyRanges = 3

// errRestart says that an endpoint is not tried, because another one sent a part of the run.
var errRestart = errors.New("incomplete run")

// A takeLeaf takes the leaf i of a request.
type takeLeaf = func(i int, data gateway.RunLeaf) error

// GivesRuns reports whether runs may be requested from the source.
func (s *Source) GivesRuns() bool {
	e := s.best()
	return e != nil && e.gateway != nil && !s.NoRuns.Load()
}

// GetRun requests leaves of a file in one request; see gateway.Client.Run. If the source does not
// answer with a run, it gets no such request again.
func (s *Source) GetRun(ctx context.Context, root cid.Cid, leaves []cas.Leaf, take takeLeaf) error {
	taken, err := s.requestLeaves(ctx, gateway.ErrNoRuns, take, func(g *gateway.Client, take takeLeaf) error {
		err := g.Run(ctx, root, leaves, take)
		s.Repeats.Store(g.RepeatsNodes())
		s.Gaps.Store(g.TakesGaps())
		return err
	})
	if errors.Is(err, gateway.ErrNoRuns) || taken == 0 && errors.Is(err, fs.ErrNotExist) {
		s.NoRuns.Store(true)
		return fmt.Errorf("%s: %w", s, gateway.ErrNoRuns)
	}
	return err
}

// GivesRanges reports whether ranges of whole files are requested from the source in place of runs: it is
// a mirror that looks like a static web server, or that has refused a run.
func (s *Source) GivesRanges() bool {
	e := s.best()
	return e != nil && e.gateway != nil && s.Kind == KindMirror && !s.noRanges.Load() && (s.NoRuns.Load() || e.gateway.IsStatic())
}

// GetRange requests leaves as a range of the file that has them; see gateway.Client.Range. If the source
// does not answer with the range, or sends wrong bytes, or if several requests in a row end without a leaf,
// it gets no such request again. Wrong bytes are a fault of the file, not of the source: its blocks are other
// files, which may be right.
func (s *Source) GetRange(ctx context.Context, path string, length int64, leaves []cas.Leaf, take takeLeaf) error {
	if s.noRanges.Load() { // since the request was planned
		return fmt.Errorf("%s: %w", s, gateway.ErrNoRanges)
	}
	taken, err := s.requestLeaves(ctx, gateway.ErrNoRanges, take, func(g *gateway.Client, take takeLeaf) error {
		return g.Range(ctx, path, length, leaves, take)
	})
	switch {
	case errors.Is(err, gateway.ErrNoRanges):
		s.noRanges.Store(true)
		return fmt.Errorf("%s: %w", s, err)
	case errors.Is(err, cas.ErrCorrupt):
		s.noRanges.Store(true)
		s.addFault(fmt.Errorf("file %.100q: %w", path, err))
		return fmt.Errorf("%s: file %.100q: %v: %w", s, path, err, gateway.ErrNoRanges)
	case taken > 0:
		s.emptyRanges.Store(0)
	case ctx.Err() != nil || !errors.Is(err, cas.ErrUnreachable) || isBusy(err) || isDial(err): // not because of the range
	case s.emptyRanges.Add(1) >= maxEmptyRanges:
		s.noRanges.Store(true)
	}
	return err
}

// requestLeaves requests leaves at the best gateway first, and at the next one only while none was taken. It returns
// how many were taken. The error of an endpoint that is no gateway is none.
func (s *Source) requestLeaves(ctx context.Context, none error, take takeLeaf, request func(*gateway.Client, takeLeaf) error) (taken int, err error) {
	err = s.request(ctx, func(e *Endpoint) error {
		switch {
		case e.gateway == nil:
			return none
		case taken > 0:
			return errRestart
		}
		return request(e.gateway, func(i int, data gateway.RunLeaf) error {
			taken++
			return take(i, data)
		})
	})
	return taken, err
}
