package limit

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	piece      = 64 << 10 // bytes that are waited for and written in one go
	maxBurst   = 1 << 20
	keepAskers = 4096 // askers that are remembered while they ask for nothing
)

// Options of Rates. The zero value bounds nothing.
type Options struct {
	Total   int64 // bytes of bodies a second, in all; 0 is no limit
	PerPeer int64 // the same to one asker
	// Slowest is the average, in bytes a second, that an asker must take of an answer
	// after Grace; 0 lets it take its time. For no 64 KiB has it more than Grace, however
	// much it has taken before. Waiting for our own limits does not count.
	Slowest int64
	Grace   time.Duration
	Slow    func() // called for an asker that was cut off; nil is fine
}

// Rates bounds how fast the bodies of a handler leave.
type Rates struct {
	opts  Options
	total *rate.Limiter // nil: no limit

	mu     sync.Mutex
	askers map[string]*asker
}

// An asker's share lasts longer than its requests: who asks often gets no new burst.
type asker struct {
	share *rate.Limiter
	open  int // requests under way
}

// NewRates starts with full allowances.
func NewRates(o Options) *Rates {
	r := &Rates{opts: o, askers: map[string]*asker{}}
	if o.Total > 0 {
		r.total = limiter(o.Total)
	}
	return r
}

// limiter lets a quarter of a second through at once, within bounds: a burst must hold
// a piece.
func limiter(perSecond int64) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(perSecond), int(min(max(perSecond/4, piece), maxBurst)))
}

// Handler bounds what next writes.
func (r *Rates) Handler(next http.Handler) http.Handler {
	if r.opts.Total <= 0 && r.opts.PerPeer <= 0 && r.opts.Slowest <= 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		share, done := r.share(Asker(req.RemoteAddr))
		defer done()
		next.ServeHTTP(&writer{
			ResponseWriter: w, conn: http.NewResponseController(w), ctx: req.Context(),
			opts: &r.opts, limits: [2]*rate.Limiter{share, r.total},
		}, req)
	})
}

// Wait waits until n bytes may go to an asker, as Asker names it, in an answer that is no
// HTTP.
func (r *Rates) Wait(ctx context.Context, name string, n int) error {
	share, done := r.share(name)
	defer done()
	for ; n > 0; n -= piece {
		for _, l := range []*rate.Limiter{share, r.total} {
			if l == nil {
				continue
			}
			if err := l.WaitN(ctx, min(n, piece)); err != nil {
				return err
			}
		}
	}
	return nil
}

// share returns the limiter of an asker, and what to call when the request has ended.
func (r *Rates) share(name string) (*rate.Limiter, func()) {
	if r.opts.PerPeer <= 0 {
		return nil, func() {}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.askers[name]
	if a == nil {
		if len(r.askers) >= keepAskers {
			r.forget()
		}
		a = &asker{share: limiter(r.opts.PerPeer)}
		r.askers[name] = a
	}
	a.open++
	return a.share, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		a.open--
	}
}

// forget drops those who ask for nothing and have their whole allowance back. What is
// left are open requests, which others bound, and who was here a moment ago.
func (r *Rates) forget() {
	for name, a := range r.askers {
		if a.open == 0 && a.share.Tokens() >= float64(a.share.Burst()) {
			delete(r.askers, name)
		}
	}
}

// A writer waits until it may write, and gives the asker the time that it deserves.
type writer struct {
	http.ResponseWriter
	conn   *http.ResponseController
	ctx    context.Context
	opts   *Options
	limits [2]*rate.Limiter // own share and total, nil for none
	sent   int64
	spent  time.Duration // that the asker kept us waiting
}

func (w *writer) Write(p []byte) (int, error) {
	n := 0
	for {
		part := p[n:min(n+piece, len(p))]
		k, err := w.send(len(part), func() (int, error) { return w.ResponseWriter.Write(part) })
		if n += k; err != nil || n == len(p) {
			return n, err
		}
	}
}

// ReadFrom lets what is below copy from a file, in pieces as Write does.
func (w *writer) ReadFrom(r io.Reader) (n int64, err error) {
	whole, ok := r.(*io.LimitedReader)
	to, direct := w.ResponseWriter.(io.ReaderFrom)
	if !ok || !direct {
		return io.Copy(struct{ io.Writer }{w}, r)
	}
	for whole.N > 0 && err == nil {
		part := &io.LimitedReader{R: whole.R, N: min(piece, whole.N)}
		var k int
		k, err = w.send(int(part.N), func() (int, error) {
			k, err := to.ReadFrom(part)
			return int(k), err
		})
		n, whole.N = n+int64(k), whole.N-int64(k)
		if k == 0 {
			break
		}
	}
	return n, err
}

// send writes n bytes by write when it may.
func (w *writer) send(n int, write func() (int, error)) (int, error) {
	for _, l := range w.limits {
		if l == nil {
			continue
		}
		if err := l.WaitN(w.ctx, n); err != nil {
			return 0, err
		}
	}
	if w.opts.Slowest <= 0 {
		return write()
	}
	start := time.Now()
	left := w.opts.Grace + time.Duration(float64(w.sent)/float64(w.opts.Slowest)*float64(time.Second)) - w.spent
	if left = min(left, w.opts.Grace); left > 0 {
		w.conn.SetWriteDeadline(start.Add(left)) // a test's recorder has none, and is as well without
		n, err := write()
		w.sent, w.spent = w.sent+int64(n), w.spent+time.Since(start)
		if err == nil || time.Since(start) < left {
			return n, err
		}
	}
	if w.opts.Slow != nil {
		w.opts.Slow()
	}
	return 0, fmt.Errorf("asker takes less than %d bytes a second: %w", w.opts.Slowest, context.DeadlineExceeded)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
