package bootclient

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	askPause = 500 * time.Millisecond // before a source without a head is asked again, doubled
	maxAsk   = 5 * time.Second        // the longest of these pauses
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
	err   error
}

// question asks a source for its heads until it has one or is banned.
func (r *resolver) question(ctx context.Context, s *source) {
	pause := askPause
	for first := true; ; first = false {
		a := r.ask(ctx, s)
		a.first = first
		select {
		case r.asked <- a:
		case <-ctx.Done():
			return
		}
		if len(a.heads) > 0 || errors.Is(a.err, manifest.ErrUntrusted) {
			return
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, maxAsk)
		case <-s.banned:
			return
		case <-ctx.Done():
			return
		}
	}
}

// ask asks a source once for the record of every trusted name.
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
			err = fmt.Errorf("%w: %w", manifest.ErrUntrusted, err)
		}
		if a.err == nil || !errors.Is(err, cas.ErrUnreachable) {
			a.err = err
		}
	}
	return a
}
