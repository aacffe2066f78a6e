package limit

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	chunkSize   = 64 << 10 // bytes that are waited for and written in one go
	maxBurst    = 1 << 20
	maxIdle     = 4096             // clients that are remembered without a request
	bodyTimeout = 10 * time.Second // for a client to send the body of a request, which is not read
)

// Options of Rates. The zero value bounds nothing.
type Options struct {
	Total     int64 // bytes of bodies a second, in all; 0 is no limit
	PerClient int64 // bytes of bodies a second to one client; 0 is no limit
	// Grace is how long a client may take for any 64 KiB of an answer; 0 is no limit. The
	// time that Total and PerClient take does not count.
	Grace time.Duration
	// MinRate is the average, in bytes a second, that a client must read of an answer after
	// Grace, which it needs; 0 is no limit.
	MinRate int64
	OnSlow  func()            // called when an answer ends because its client is slow; nil is fine
	Sent    func(bytes int64) // called for each part of a body that was sent; nil is fine
}

// Rates bounds how fast the bodies of a handler are sent, and how slowly they may be read.
type Rates struct {
	opts  Options
	total *rate.Limiter // nil: no limit

	mu      sync.Mutex
	clients map[string]*client
}

// A client's allowance outlasts its requests: many small requests get one burst.
type client struct {
	allowance *rate.Limiter
	open      int // requests under way
}

// NewRates returns Rates with full allowances.
func NewRates(o Options) *Rates {
	r := &Rates{opts: o, clients: map[string]*client{}}
	if o.Total > 0 {
		r.total = newLimiter(o.Total)
	}
	return r
}

// newLimiter returns a limiter whose burst is a quarter of a second, but at least a chunk and at
// most maxBurst.
func newLimiter(perSecond int64) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(perSecond), int(min(max(perSecond/4, chunkSize), maxBurst)))
}

// Handler returns next with the limits. A client that does not send the body of its request
// within ten seconds loses its connection.
func (r *Rates) Handler(next http.Handler) http.Handler {
	return r.PacedHandler(r.opts.MinRate, r.opts.Grace, next)
}

// PacedHandler is Handler with other values of MinRate and Grace. The allowances are those of r: a client
// gets them once for all handlers.
func (r *Rates) PacedHandler(minRate int64, grace time.Duration, next http.Handler) http.Handler {
	opts := r.opts
	opts.MinRate, opts.Grace = minRate, grace
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		allowance, done := r.allowance(ClientKey(req.RemoteAddr))
		defer done()
		out := &Answer{
			ResponseWriter: w, Status: http.StatusOK, conn: http.NewResponseController(w), ctx: req.Context(),
			opts: &opts, limits: [2]*rate.Limiter{allowance, r.total},
		}
		if req.ContentLength != 0 { // the server waits for the body
			out.conn.SetReadDeadline(time.Now().Add(bodyTimeout))
		}
		if req.Method != http.MethodHead {
			out.Sent = opts.Sent
		}
		out.extendDeadline() // for the header
		next.ServeHTTP(out, req)
		out.extendDeadline() // for what the server has buffered
	})
}

// Wait waits until n bytes may be sent to a client, as ClientKey names it, over another protocol
// than HTTP.
func (r *Rates) Wait(ctx context.Context, key string, n int) error {
	allowance, done := r.allowance(key)
	defer done()
	for ; n > 0; n -= chunkSize {
		if err := waitAll(ctx, min(n, chunkSize), allowance, r.total); err != nil {
			return err
		}
	}
	return nil
}

// waitAll waits until every limiter that is not nil lets n bytes through.
func waitAll(ctx context.Context, n int, limits ...*rate.Limiter) error {
	for _, l := range limits {
		if l == nil {
			continue
		}
		if err := l.WaitN(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// allowance returns the limiter of a client, and a function to call when the request has ended.
func (r *Rates) allowance(key string) (*rate.Limiter, func()) {
	if r.opts.PerClient <= 0 {
		return nil, func() {}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.clients[key]
	if c == nil {
		if len(r.clients) >= maxIdle {
			r.dropIdle()
		}
		c = &client{allowance: newLimiter(r.opts.PerClient)}
		r.clients[key] = c
	}
	c.open++
	return c.allowance, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		c.open--
	}
}

// dropIdle drops the clients that have no request and their whole allowance. The other clients
// have an open request, of which Conns bounds the number, or had one a moment ago.
func (r *Rates) dropIdle() {
	for key, c := range r.clients {
		if c.open == 0 && c.allowance.Tokens() >= float64(c.allowance.Burst()) {
			delete(r.clients, key)
		}
	}
}

// An Answer is the http.ResponseWriter that Rates.Handler passes on. It writes an answer in chunks.
// It waits before each until the limits allow it, and sets a deadline for the client to take it.
type Answer struct {
	http.ResponseWriter
	Status int               // the last that was written, or 200
	Bytes  int64             // of the body, sent so far
	Sent   func(bytes int64) // that of Options, unless a handler sets another one

	conn   *http.ResponseController
	ctx    context.Context
	opts   *Options
	limits [2]*rate.Limiter // of the client and in all, nil for none
	spent  time.Duration    // in writes, which the client has held up
}

// WriteHeader records the status.
func (w *Answer) WriteHeader(status int) {
	w.Status = status
	w.ResponseWriter.WriteHeader(status)
}

// extendDeadline gives the client Grace for what is written next. The recorder of a test has no
// deadlines.
func (w *Answer) extendDeadline() {
	if w.opts.Grace > 0 {
		w.conn.SetWriteDeadline(time.Now().Add(w.opts.Grace))
	}
}

// Write writes p in chunks.
func (w *Answer) Write(p []byte) (int, error) {
	n := 0
	for {
		part := p[n:min(n+chunkSize, len(p))]
		k, err := w.send(len(part), func() (int, error) { return w.ResponseWriter.Write(part) })
		if n += k; err != nil || n == len(p) {
			return n, err
		}
	}
}

// ReadFrom lets the kernel send a file (sendfile), in chunks as Write does. For other readers it
// spares io.Copy the allocation of a buffer.
func (w *Answer) ReadFrom(r io.Reader) (n int64, err error) {
	whole, ok := r.(*io.LimitedReader)
	to, direct := w.ResponseWriter.(io.ReaderFrom)
	if !ok || !direct || !isFile(whole.R) {
		buf := buffers.Get().(*[chunkSize]byte)
		defer buffers.Put(buf)
		return io.CopyBuffer(struct{ io.Writer }{w}, r, buf[:])
	}
	for whole.N > 0 && err == nil {
		part := &io.LimitedReader{R: whole.R, N: min(chunkSize, whole.N)}
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

func isFile(r io.Reader) bool {
	_, ok := r.(*os.File)
	return ok
}

var buffers = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// send calls write, which writes n bytes, once the limits allow it.
func (w *Answer) send(n int, write func() (int, error)) (int, error) {
	if err := waitAll(w.ctx, n, w.limits[:]...); err != nil {
		return 0, err
	}
	if w.opts.Grace <= 0 {
		n, err := write()
		w.count(n)
		return n, err
	}
	start, left := time.Now(), w.timeLeft()
	if left > 0 {
		w.conn.SetWriteDeadline(start.Add(left))
		n, err := write()
		w.count(n)
		w.spent += time.Since(start)
		if err == nil || time.Since(start) < left {
			return n, err
		}
	}
	if w.opts.OnSlow != nil {
		w.opts.OnSlow()
	}
	return 0, fmt.Errorf("client reads too slowly: %w", context.DeadlineExceeded)
}

func (w *Answer) count(n int) {
	w.Bytes += int64(n)
	if w.Sent != nil {
		w.Sent(int64(n))
	}
}

// timeLeft returns how long the client may take for the next chunk: Grace, or less if its average
// is below MinRate.
func (w *Answer) timeLeft() time.Duration {
	left := w.opts.Grace
	if w.opts.MinRate > 0 {
		earned := time.Duration(float64(w.Bytes) / float64(w.opts.MinRate) * float64(time.Second))
		left = min(left, w.opts.Grace+earned-w.spent)
	}
	return left
}

// Unwrap lets http.ResponseController reach the connection.
func (w *Answer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
