package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// What a Client allows a gateway when its fields say nothing.
const (
	DefaultIdle    = 5 * time.Second // without a byte, before and between reads
	DefaultMinRate = 4 << 10         // bytes a second over a whole body

	maxRecord  = 10 << 10 // bytes of an IPNS record, the limit of its spec
	maxHeaders = 32 << 10 // bytes of response headers
	firstRead  = 64 << 10 // size of a body's first buffer, the size of most leaves

	defaultRetryAfter = time.Second     // when a gateway is busy and does not say for how long
	maxRetryAfter     = 5 * time.Second // the longest that is believed
)

// A Client asks one gateway. It is a cas.Source: what it returns is not verified.
// It is safe for concurrent use and must not be changed after its first use.
type Client struct {
	// Base is the URL that /ipfs/ and /ipns/ hang under, such as
	// "http://192.0.2.1:8080" or "https://example.org/mirror".
	Base string
	// HTTP sends the requests; nil is one made by NewHTTP. Its CheckRedirect is
	// not used: redirects to another host are always refused.
	HTTP *http.Client
	// Idle is how long a gateway may send nothing; 0 is DefaultIdle.
	Idle time.Duration
	// MinRate is the least bytes a second of a body after the first Idle; 0 is
	// DefaultMinRate.
	MinRate int64

	once sync.Once
	own  http.Client

	repeats, bare atomic.Bool // what runs brought
}

// NewHTTP returns an http.Client for gateways: bounded headers, no proxy from the
// environment, no cookies. A nil dial is plain TCP with a deadline.
func NewHTTP(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Client {
	if dial == nil {
		dial = (&net.Dialer{Timeout: DefaultIdle, KeepAlive: 15 * time.Second}).DialContext
	}
	return &http.Client{Transport: &http.Transport{
		DialContext:            dial,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        30 * time.Second,
		TLSHandshakeTimeout:    DefaultIdle,
		MaxResponseHeaderBytes: maxHeaders,
		DisableCompression:     true,
		ReadBufferSize:         32 << 10,
	}}
}

// Block asks for a block. It returns at most cas.MaxBlock+1 bytes, and an error
// that wraps fs.ErrNotExist or cas.ErrUnreachable.
func (c *Client) Block(ctx context.Context, id cid.Cid) ([]byte, error) {
	data, err := c.get(ctx, "/ipfs/"+id.String()+"?format=raw", typeRaw, cas.MaxBlock)
	if err != nil {
		return nil, fmt.Errorf("block %s: %w", id, err)
	}
	return data, nil
}

// IPNS asks for the newest record of a name, at most 10 KiB. The record is not
// verified. Errors are those of Block; a web page, such as a hotel's, is no answer.
func (c *Client) IPNS(ctx context.Context, name string) ([]byte, error) {
	data, err := c.get(ctx, "/ipns/"+url.PathEscape(name)+"?format=ipns-record", typeIPNS, maxRecord)
	switch {
	case err != nil:
	case bytes.HasPrefix(bytes.TrimSpace(data), []byte("<")):
		err = fmt.Errorf("a web page, and no record; check the address, and whether this network wants a login: %w", cas.ErrUnreachable)
	case len(data) > maxRecord:
		err = fmt.Errorf("record of more than %d bytes: %w", maxRecord, cas.ErrCorrupt)
	}
	if err != nil {
		return nil, fmt.Errorf("IPNS record: %w", err)
	}
	return data, nil
}

// get reads the body of a 200 response: limit+1 bytes of it at the most.
func (c *Client) get(ctx context.Context, path, accept string, limit int) ([]byte, error) {
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
	return data, nil
}

// request sends a GET and returns the response, whatever its status.
func (c *Client) request(ctx context.Context, path, accept, etag string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(c.Base, "/")+path, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", cas.ErrUnreachable, err)
	}
	req.Header.Set("Accept", accept)
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	resp, err := c.client().Do(req)
	if err != nil {
		return nil, lost(ctx, err)
	}
	return resp, nil
}

// A BusyError is the answer of a gateway that has too much to do: it is not broken and
// may be asked again. It is a cas.ErrUnreachable.
type BusyError struct {
	After time.Duration // that it asks to wait, at most maxRetryAfter
}

func (b *BusyError) Error() string {
	return fmt.Sprintf("busy, asks to wait %s", b.After)
}

func (b *BusyError) Unwrap() error { return cas.ErrUnreachable }

// busy reads a Retry-After in seconds; its form with a date means the default.
func busy(resp *http.Response) error {
	after := defaultRetryAfter
	if n, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 31); err == nil {
		after = min(time.Duration(n)*time.Second, maxRetryAfter)
	}
	return fmt.Errorf("status %d: %w", resp.StatusCode, &BusyError{after})
}

func status(resp *http.Response) error {
	switch {
	case resp.StatusCode == http.StatusServiceUnavailable, resp.StatusCode == http.StatusTooManyRequests:
		return busy(resp)
	case resp.StatusCode == http.StatusOK:
		return nil
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusGone:
		return fmt.Errorf("status %d: %w", resp.StatusCode, fs.ErrNotExist)
	default:
		return fmt.Errorf("status %d: %w", resp.StatusCode, cas.ErrUnreachable)
	}
}

// client is a copy of c.HTTP that refuses to be sent to another host.
func (c *Client) client() *http.Client {
	c.once.Do(func() {
		h := c.HTTP
		if h == nil {
			h = NewHTTP(nil)
		}
		c.own = *h
		c.own.CheckRedirect = sameHost
	})
	return &c.own
}

func sameHost(req *http.Request, via []*http.Request) error {
	if len(via) > 3 {
		return errors.New("more than 3 redirects")
	}
	from, to := via[0].URL, req.URL
	if from.Host != to.Host || from.Scheme != to.Scheme {
		return fmt.Errorf("redirect to another host %.80q refused", to.Host)
	}
	return nil
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
		err = uerr.Err
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
