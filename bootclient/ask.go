package bootclient

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

// A pointer names a metadata directory. An IPNS record signed it; it proves nothing about
// the metadata.
type pointer struct {
	directory cid.Cid
	seq       uint64
	from      *source // nil when the DHT gave it
	name      string  // IPNS name of the record
	record    []byte  // the signed record, as it is served to other machines
}

func (ptr pointer) announcer() string {
	if ptr.from == nil {
		return "DHT"
	}
	return ptr.from.String()
}

// A pointerAnswer is the outcome of one request for pointers to one source.
type pointerAnswer struct {
	src      *source
	first    bool // it is the first answer of this source
	pointers []pointer
	err      error // the worst error
	retry    bool  // the source may have a pointer later
}

// poll asks a source for its pointers again and again until it is banned or ctx ends. A
// source whose pointer was refused may learn a newer one.
func (r *resolver) poll(ctx context.Context, s *source) {
	for n := 0; ; n++ {
		a := r.requestPointers(ctx, s)
		a.first = n == 0
		select {
		case r.answers <- a:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(r.pauseAfter(n, a.err)):
		case <-s.banned:
			return
		case <-ctx.Done():
			return
		}
	}
}

// pauseAfter returns the pause between answer n of a source and the next request.
func (r *resolver) pauseAfter(n int, err error) time.Duration {
	pause := timing.Growing(r.times.AskFirst, n, r.times.AskMax)
	if busy := (*gateway.BusyError)(nil); errors.As(err, &busy) {
		pause = max(pause, r.times.RetryAfter(busy.After))
	}
	return pause
}

// requestPointers asks a source once for the IPNS record of every trusted name. An unsigned
// answer, such as an HTML page, counts as unreachable. A record with a wrong signature counts
// as untrusted.
func (r *resolver) requestPointers(ctx context.Context, s *source) pointerAnswer {
	a := pointerAnswer{src: s}
	for _, name := range r.names {
		rec, err := s.record(ctx, name)
		if err == nil {
			ptr := pointer{from: s, name: name, record: rec}
			if ptr.directory, ptr.seq, err = p2p.CheckRecord(name, rec); err == nil {
				a.pointers = append(a.pointers, ptr)
				continue
			}
			if errors.Is(err, p2p.ErrNoRecord) {
				err = fmt.Errorf("%w: %w", cas.ErrUnreachable, err)
			} else {
				err = fmt.Errorf("%w: %w", manifest.ErrUntrusted, err)
			}
		}
		a.err = worse(a.err, err)
		a.retry = a.retry || !errors.Is(err, manifest.ErrUntrusted)
	}
	return a
}

// savedPointer reads and checks the saved record of a name in a cache.
func savedPointer(dir cache.Dir, name string) (pointer, error) {
	record, err := dir.ReadRecord(name)
	if err != nil {
		return pointer{}, err
	}
	ptr := pointer{name: name, record: record}
	if ptr.directory, ptr.seq, err = p2p.CheckRecord(name, record); err != nil {
		return pointer{}, fmt.Errorf("%w: %w", manifest.ErrUntrusted, err)
	}
	return ptr, nil
}
