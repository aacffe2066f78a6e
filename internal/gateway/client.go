package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// MaxParallel is how many requests at a time a client from NewHTTP has connections for that
// are used again.
const MaxParallel = 48

// What a Client allows a gateway when its fields say nothing.
const (
	DefaultIdle    = 5 * time.Second // without a byte, before and between reads
	DefaultMinRate = 4 << 10         // bytes a second over a whole body

	maxRecord  = 10 << 10 // bytes of an IPNS record, the limit of its spec
	maxHeaders = 32 << 10 // bytes of response headers
	firstRead  = 64 << 10 // size of a body's first buffer, the size of most leaves
)

// A Client asks one gateway. It is a cas.Source: what it returns is not verified.
// It is safe for concurrent use and must not be changed after its first use.
type Client struct {
	// Base is the URL that /ipfs/ and /ipns/ hang under, such as
	// "http://192.0.2.1:8080", "https://user:password@example.org/mirror" or
	// "file:///srv/mirror".
	Base string
	// HTTP sends the requests; nil is one made by NewHTTP. Its CheckRedirect is not used.
	HTTP *http.Client
	// Redirects allows redirects to other hosts. It is for gateways that a person or
	// root.json named: one that a stranger named could aim this machine at anybody.
	Redirects bool
	// Idle is how long a gateway may send nothing; 0 is DefaultIdle.
	Idle time.Duration
	// MinRate is the least bytes a second of a body after the first Idle; 0 is
	// DefaultMinRate.
	MinRate int64

	once sync.Once
	own  http.Client

	repeats, bare atomic.Bool // what runs brought
	plain         atomic.Bool // requests with a query were refused, those without were not

	nearest atomic.Int64 // the shortest time from a request to its answer, in nanoseconds
}

// NewHTTP returns an http.Client for gateways: bounded headers, no proxy from the
// environment, no cookies. A nil dial is plain TCP with a deadline. It also reads file URLs;
// no redirect leads to one.
func NewHTTP(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Client {
	if dial == nil {
		dial = dialer().DialContext
	}
	t := &http.Transport{
		DialContext:            dial,
		MaxIdleConnsPerHost:    MaxParallel,
		IdleConnTimeout:        30 * time.Second,
		TLSHandshakeTimeout:    DefaultIdle,
		MaxResponseHeaderBytes: maxHeaders,
		DisableCompression:     true,
		ReadBufferSize:         32 << 10,
	}
	t.RegisterProtocol("file", fileTransport{})
	return &http.Client{Transport: t}
}

// Block asks for a block. It returns at most cas.MaxBlock+1 bytes, and an error that wraps
// fs.ErrNotExist or cas.ErrUnreachable; the table in the package comment has which.
func (c *Client) Block(ctx context.Context, id cid.Cid) ([]byte, error) {
	data, err := c.inForm(ctx, "/ipfs/"+id.String(), formatRaw, typeRaw, cas.MaxBlock, func(resp *http.Response, data []byte) error {
		return checkBlock(resp, id, data)
	})
	if err != nil {
		return nil, fmt.Errorf("block %s: %w", id, err)
	}
	return data, nil
}

// IPNS asks for the newest record of a name, at most 10 KiB. Its name and signature are not
// verified. Errors are those of Block: a body that is no record is a cas.ErrUnreachable.
func (c *Client) IPNS(ctx context.Context, name string) ([]byte, error) {
	data, err := c.inForm(ctx, "/ipns/"+url.PathEscape(name), formatIPNS, typeIPNS, maxRecord, checkRecord)
	if err != nil {
		return nil, fmt.Errorf("IPNS record: %w", err)
	}
	return data, nil
}

// inForm asks for a path in a format. When the answer has another form, or a status refuses
// the request, it asks in other words, which a filter or a cache in between takes for
// another request: without a query, then with another path to the same thing. The error is
// that of the first answer.
func (c *Client) inForm(ctx context.Context, path, format, accept string, limit int, check func(*http.Response, []byte) error) ([]byte, error) {
	query := "?format=" + format
	first, second := path+query, path
	if c.plain.Load() {
		first, second = second, first
	}
	data, err := c.get(ctx, first, accept, limit, check)
	if !errors.Is(err, errForm) && !errors.Is(err, errRefused) {
		return data, err
	}
	for _, also := range []string{second, path + "/" + query} {
		data, again := c.get(ctx, also, accept, limit, check)
		if again == nil {
			if errors.Is(err, errRefused) && also == path {
				c.plain.Store(true)
			}
			return data, nil
		}
		if ctx.Err() != nil || errors.Is(err, errRefused) {
			break
		}
	}
	return nil, err
}

// get reads the body of a 200 response, limit+1 bytes of it at the most, and checks it.
func (c *Client) get(ctx context.Context, path, accept string, limit int, check func(*http.Response, []byte) error) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := c.watch(cancel)
	defer watch.stop()
	resp, err := c.request(ctx, path, accept, "")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := status(resp); err != nil {
		return nil, err
	}
	data, err := read(resp.Body, limit+1, watch)
	if err != nil {
		return nil, lost(ctx, err)
	}
	if err := check(resp, data); err != nil {
		return nil, err
	}
	return data, nil
}

// userAgent names the program in an operator's log, without a version: a mirror need not
// know how old a machine is.
const userAgent = "phaseboot"

// request sends a GET and returns the response, whatever its status.
func (c *Client) request(ctx context.Context, path, accept, etag string) (*http.Response, error) {
	if c.Redirects {
		ctx = onTrip(ctx)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(c.Base, "/")+path, nil)
	if err != nil {
		return nil, lost(ctx, err)
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", userAgent)
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	begun := time.Now()
	resp, err := c.client().Do(req)
	if err != nil {
		return nil, lost(ctx, err)
	}
	c.took(time.Since(begun))
	return resp, nil
}

func (c *Client) took(d time.Duration) {
	for {
		least := c.nearest.Load()
		if least != 0 && int64(d) >= least || c.nearest.CompareAndSwap(least, max(int64(d), 1)) {
			return
		}
	}
}

// RoundTrip is the shortest time that passed between a request and the beginning of its
// answer, 0 before the first one. It is that of the network once a connection was used again.
func (c *Client) RoundTrip() time.Duration { return time.Duration(c.nearest.Load()) }

// client is a copy of c.HTTP with our rules for redirects.
func (c *Client) client() *http.Client {
	c.once.Do(func() {
		h := c.HTTP
		if h == nil {
			h = NewHTTP(nil)
		}
		c.own = *h
		c.own.CheckRedirect = c.redirect
	})
	return &c.own
}

// lost words the loss of a connection: what our own deadline said when it was
// that, and the caller's own end when it was that.
func lost(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, errSlow) {
		return cause
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", cas.ErrUnreachable, ctx.Err())
	}
	var uerr *url.Error
	if errors.As(err, &uerr) {
		err = uerr.Err // without the URL, which may hold a password
	}
	return fmt.Errorf("%w: %w", cas.ErrUnreachable, err)
}

// scratch lends the buffers in which bodies grow: a block is kept in one of its own
// size, and what it took to learn that size is not garbage.
var scratch = sync.Pool{New: func() any { return new(make([]byte, 0, firstRead)) }}

// read reads until the end or max bytes, in a buffer that grows with what came.
func read(r io.Reader, max int, watch *watch) ([]byte, error) {
	lent := scratch.Get().(*[]byte)
	defer scratch.Put(lent)
	buf := (*lent)[:0]
	for {
		n, err := r.Read(buf[len(buf):min(cap(buf), max)])
		buf = buf[:len(buf)+n]
		if err == io.EOF || len(buf) >= max {
			return bytes.Clone(buf), nil
		}
		if err != nil {
			return nil, err
		}
		watch.progress(len(buf))
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, min(max, 2*cap(buf))), buf...)
			*lent = buf
		}
	}
}

var errSlow = fmt.Errorf("%w: stalled", cas.ErrUnreachable)

// watch abandons a request that sends nothing for idle, or whose body arrives
// below the least rate after that.
type watch struct {
	timer *time.Timer
	start time.Time
	idle  time.Duration
	rate  int64
}

func (c *Client) watch(cancel context.CancelCauseFunc) *watch {
	w := &watch{start: time.Now(), idle: c.Idle, rate: c.MinRate}
	if w.idle <= 0 {
		w.idle = DefaultIdle
	}
	if w.rate <= 0 {
		w.rate = DefaultMinRate
	}
	w.timer = time.AfterFunc(w.idle, func() {
		cancel(fmt.Errorf("%w: nothing for %s, or less than %d bytes a second", errSlow, w.idle, w.rate))
	})
	return w
}

// progress moves the deadline after n bytes of a body have come in all.
func (w *watch) progress(n int) {
	due := w.idle + time.Duration(int64(n)*int64(time.Second)/w.rate) - time.Since(w.start)
	w.timer.Reset(min(w.idle, max(due, 0)))
}

func (w *watch) stop() { w.timer.Stop() }
