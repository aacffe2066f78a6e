package bootclient

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

// A head is a signed pointer to a metadata folder. It says nothing of trust.
type head struct {
	folder cid.Cid
	seq    uint64
	from   *source // nil when the DHT said so
	name   string  // of the record, and the record itself, for those who ask us
	record []byte
}

func (h head) source() string {
	if h.from == nil {
		return "DHT"
	}
	return h.from.String()
}

// heard is what one source said: its heads, or why it has none.
type heard struct {
	src   *source
	first bool // the first answer of this source
	heads []head
	err   error // the most telling one
	later bool  // for one of the names it may have a head at another time
}

// question asks a source for its heads until it is banned or the search is over: one whose
// head was refused may hear of a better one.
func (r *resolver) question(ctx context.Context, s *source) {
	for n := 0; ; n++ {
		a := r.ask(ctx, s)
		a.first = n == 0
		select {
		case r.asked <- a:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(r.pause(n, a.err)):
		case <-s.banned:
			return
		case <-ctx.Done():
			return
		}
	}
}

// pause is how long to wait after answer n before the source is asked again.
func (r *resolver) pause(n int, err error) time.Duration {
	pause := growing(r.cfg.times.askFirst, n, r.cfg.times.askMax)
	if busy := (*gateway.BusyError)(nil); errors.As(err, &busy) {
		pause = max(pause, r.cfg.times.retryAfter(busy.After))
	}
	return pause
}

// ask asks a source once for the record of every trusted name. Bytes that nobody signed, such
// as a page of a server that is not ready, are no answer; a record that somebody else signed
// is a refused one.
func (r *resolver) ask(ctx context.Context, s *source) heard {
	a := heard{src: s}
	for _, name := range r.names {
		rec, err := s.record(ctx, name)
		if err == nil {
			h := head{from: s, name: name, record: rec}
			if h.folder, h.seq, err = p2p.CheckRecord(name, rec); err == nil {
				a.heads = append(a.heads, h)
				continue
			}
			if errors.Is(err, p2p.ErrNoRecord) {
				err = fmt.Errorf("%w: %w", cas.ErrUnreachable, err)
			} else {
				err = fmt.Errorf("%w: %w", manifest.ErrUntrusted, err)
			}
		}
		a.err = worse(a.err, err)
		a.later = a.later || !errors.Is(err, manifest.ErrUntrusted)
	}
	return a
}
