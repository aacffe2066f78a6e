package resolve

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

// A pointerAnswer is the outcome of one request for pointers to one source.
type pointerAnswer struct {
	src      *peers.Source
	first    bool // it is the first answer of this source
	pointers []peers.Pointer
	err      error // the worst error
	retry    bool  // the source may have a pointer later
}

// poll asks a source for its pointers again and again until it is banned or ctx ends. A
// source whose pointer was refused may learn a newer one.
func (r *resolver) poll(ctx context.Context, s *peers.Source) {
	for n := 0; ; n++ {
		a := r.requestPointers(ctx, s)
		a.first = n == 0
		r.post(ctx, func() { r.handleAnswer(a) })
		select {
		case <-time.After(r.pauseAfter(n, a.err)):
		case <-s.Banned():
			return
		case <-ctx.Done():
			return
		}
	}
}

// pauseAfter returns the pause between answer n of a source and the next request.
func (r *resolver) pauseAfter(n int, err error) time.Duration {
	pause := timing.Growing(r.disc.Times.AskFirst, n, r.disc.Times.AskMax)
	if busy := (*gateway.BusyError)(nil); errors.As(err, &busy) {
		pause = max(pause, r.disc.Times.RetryAfter(busy.After))
	}
	return pause
}

// requestPointers asks a source once for the IPNS record of every trusted name. An unsigned
// answer, such as an HTML page, counts as unreachable. A record with a wrong signature counts
// as untrusted.
func (r *resolver) requestPointers(ctx context.Context, s *peers.Source) pointerAnswer {
	a := pointerAnswer{src: s}
	for _, name := range r.Names {
		rec, err := s.Record(ctx, name)
		if err == nil {
			ptr := peers.Pointer{From: s, Name: name, Record: rec}
			if ptr.Directory, ptr.Seq, err = p2p.CheckRecord(name, rec); err == nil {
				a.pointers = append(a.pointers, ptr)
				continue
			}
			if errors.Is(err, p2p.ErrNoRecord) {
				err = fmt.Errorf("%w: %w", cas.ErrUnreachable, err)
			} else {
				err = fmt.Errorf("%w: %w", manifest.ErrUntrusted, err)
			}
		}
		a.err = peers.Worse(a.err, err)
		a.retry = a.retry || !errors.Is(err, manifest.ErrUntrusted)
	}
	return a
}

// SavedPointer reads and checks the saved record of a name in a cache.
func SavedPointer(dir cache.Dir, name string) (peers.Pointer, error) {
	record, err := dir.ReadRecord(name)
	if err != nil {
		return peers.Pointer{}, err
	}
	ptr := peers.Pointer{Name: name, Record: record}
	if ptr.Directory, ptr.Seq, err = p2p.CheckRecord(name, record); err != nil {
		return peers.Pointer{}, fmt.Errorf("%w: %w", manifest.ErrUntrusted, err)
	}
	return ptr, nil
}
