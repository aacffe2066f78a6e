package gateway

import (
	"bytes"
	"cmp"
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

// MaxParallel is how many idle connections to a gateway a client from NewHTTP keeps for further
// requests.
const MaxParallel = 48

// DefaultIdle is how long a response may pause, before and during its body, unless Client.Idle says
// otherwise.
const DefaultIdle = 5 * time.Second

const (
	minRate    = 4 << 10  // bytes a second, the lowest average of a body after the first Idle
	maxRecord  = 10 << 10 // bytes of an IPNS record, the limit of its spec
	maxHeaders = 32 << 10 // bytes of response headers
	firstRead  = 64 << 10 // bytes of a body's first buffer, the size of most leaves
)

// A Client reads from one gateway. It is a cas.Source: the blocks that it returns are not verified.
// It is safe for concurrent use and must not be changed after its first use.
type Client struct {
	// Base is the URL above /ipfs/ and /ipns/, such as
	// "http://192.0.2.1:8080", "https://user:password@example.org/mirror" or
	// "file:///srv/mirror".
	Base string
	// HTTP sends the requests; nil is NewHTTP(nil). Its CheckRedirect is not used.
	HTTP *http.Client
	// Redirects allows redirects to other hosts. Set it only for gateways that an operator
	// or root.json names: a gateway found on the network could direct requests of this
	// machine to any host.
	Redirects bool
	// Idle is how long a response may pause; 0 is DefaultIdle.
	Idle time.Duration

	once        sync.Once
	redirecting http.Client

	sawNodes, sawNoNodes atomic.Bool // a run had inner nodes; a run had none
	noQuery              atomic.Bool // requests with a query are refused, requests without are served

	sawRaw, sawBare atomic.Bool // a block had the media type of a raw block; a block had another one or none
	reports         atomic.Bool // an answer said that it takes boot reports

	minRoundTrip atomic.Int64 // shortest time from a request to its response, in nanoseconds
}

// NewHTTP returns an http.Client for gateways: bounded headers, no proxy from the
// environment, no cookies. A nil dial is plain TCP with a deadline. The client also reads file
// URLs, but follows no redirect to one.
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
		ExpectContinueTimeout:  DefaultIdle,
	}
	t.RegisterProtocol("file", fileTransport{})
	return &http.Client{Transport: t}
}

// Block requests a block. It returns at most cas.MaxBlock+1 bytes, or an error that wraps
// fs.ErrNotExist or cas.ErrUnreachable, as the table in the package comment says.
func (c *Client) Block(ctx context.Context, id cid.Cid) ([]byte, error) {
	data, err := c.getForm(ctx, "/ipfs/"+id.String(), formatRaw, typeRaw, cas.MaxBlock, func(resp *http.Response, data []byte) error {
		if err := checkBlock(resp, id, data); err != nil {
			return err
		}
		if mediaType(resp.Header) == typeRaw {
			c.sawRaw.Store(true)
		} else {
			c.sawBare.Store(true)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("block %s: %w", id, err)
	}
	return data, nil
}

// IsStatic reports whether the server seems to be a web server with files: it has sent blocks, and none
// with the media type that the specification of gateways demands. It has no runs, and may have ranges.
func (c *Client) IsStatic() bool { return c.sawBare.Load() && !c.sawRaw.Load() }

// IPNS requests the newest record of a name, at most 10 KiB. Its name and signature are not
// verified. Errors are those of Block; a body that is not a record is a cas.ErrUnreachable.
func (c *Client) IPNS(ctx context.Context, name string) ([]byte, error) {
	data, err := c.getForm(ctx, "/ipns/"+url.PathEscape(name), formatIPNS, typeIPNS, maxRecord, checkRecord)
	if err != nil {
		return nil, fmt.Errorf("IPNS record: %w", err)
	}
	return data, nil
}

// getForm requests a path in a format. If the response has another format, or a status refuses
// the request, it tries other URLs of the same resource, which a filter or a cache on the way
// treats as different requests: without the query, then with a slash after the path. The error
// is that of the first response.
func (c *Client) getForm(ctx context.Context, path, format, accept string, limit int, check func(*http.Response, []byte) error) ([]byte, error) {
	query := "?format=" + format
	first, second := path+query, path
	if c.noQuery.Load() {
		first, second = second, first
	}
	data, err := c.get(ctx, first, accept, limit, check)
	if !errors.Is(err, errOtherForm) && !errors.Is(err, errRefused) {
		return data, err
	}
	for _, also := range []string{second, path + "/" + query} {
		data, again := c.get(ctx, also, accept, limit, check)
		if again == nil {
			if errors.Is(err, errRefused) && also == path {
				c.noQuery.Store(true)
			}
			return data, nil
		}
		if ctx.Err() != nil || errors.Is(err, errRefused) {
			break
		}
	}
	return nil, err
}

// get reads the body of a 200 response, at most limit+1 bytes of it, and checks it.
func (c *Client) get(ctx context.Context, path, accept string, limit int, check func(*http.Response, []byte) error) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := c.startWatchdog(cancel)
	defer watch.stop()
	resp, err := c.request(ctx, path, accept)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := status(resp); err != nil {
		return nil, err
	}
	data, err := read(resp.Body, limit+1, watch)
	if err != nil {
		return nil, requestError(ctx, err)
	}
	if err := check(resp, data); err != nil {
		return nil, err
	}
	return data, nil
}

// userAgent names the program in the log of a mirror, without a version, which would show how
// old a machine's software is.
const userAgent = "phaseboot"

// request sends a GET with further header fields, names and values in turn, and returns the response,
// whatever its status.
func (c *Client) request(ctx context.Context, path, accept string, more ...string) (*http.Response, error) {
	if c.Redirects {
		ctx = withRedirectState(ctx)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(c.Base, "/")+path, nil)
	if err != nil {
		return nil, requestError(ctx, err)
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", userAgent)
	for i := 0; i < len(more); i += 2 {
		req.Header.Set(more[i], more[i+1])
	}
	begun := time.Now()
	resp, err := c.httpClient().Do(req)
	if err != nil {
		return nil, requestError(ctx, err)
	}
	c.observeRoundTrip(time.Since(begun))
	if resp.Header.Get(ReportsHeader) == ReportsVersion {
		c.reports.Store(true)
	}
	return resp, nil
}

func (c *Client) observeRoundTrip(d time.Duration) {
	for {
		least := c.minRoundTrip.Load()
		if least != 0 && int64(d) >= least || c.minRoundTrip.CompareAndSwap(least, max(int64(d), 1)) {
			return
		}
	}
}

// RoundTrip returns the shortest time between a request and the start of its response, 0 before
// the first one. Once a connection was reused, it is the round-trip time of the network.
func (c *Client) RoundTrip() time.Duration { return time.Duration(c.minRoundTrip.Load()) }

// httpClient returns a copy of c.HTTP with the rules for redirects.
func (c *Client) httpClient() *http.Client {
	c.once.Do(func() {
		h := c.HTTP
		if h == nil {
			h = NewHTTP(nil)
		}
		c.redirecting = *h
		c.redirecting.CheckRedirect = c.redirect
	})
	return &c.redirecting
}

// requestError returns the error for a connection that failed: the stall that ended it, the end of the
// caller's ctx, or err.
func requestError(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, errStalled) {
		return cause
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", cas.ErrUnreachable, ctx.Err())
	}
	var uerr *url.Error
	if errors.As(err, &uerr) {
		err = uerr.Err // without the URL, which may contain a password
	}
	return fmt.Errorf("%w: %w", cas.ErrUnreachable, err)
}

// readBuffers holds buffers in which bodies are read until their size is known. The block is then
// copied into a buffer of its own size.
var readBuffers = sync.Pool{New: func() any { return new(make([]byte, 0, firstRead)) }}

// read reads until the end or max bytes, in a buffer that grows with the bytes received.
func read(r io.Reader, max int, watch *watchdog) ([]byte, error) {
	lent := readBuffers.Get().(*[]byte)
	defer readBuffers.Put(lent)
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

var errStalled = fmt.Errorf("%w: stalled", cas.ErrUnreachable)

// A watchdog cancels a request whose response pauses for idle, or whose body has an average below
// minRate after that.
type watchdog struct {
	timer *time.Timer
	start time.Time
	idle  time.Duration
}

func (c *Client) startWatchdog(cancel context.CancelCauseFunc) *watchdog {
	w := &watchdog{start: time.Now(), idle: cmp.Or(c.Idle, DefaultIdle)}
	w.timer = time.AfterFunc(w.idle, func() {
		cancel(fmt.Errorf("%w: no bytes for %s, or less than %d a second", errStalled, w.idle, minRate))
	})
	return w
}

// progress moves the deadline; n bytes of the body have been received in all.
func (w *watchdog) progress(n int) {
	left := w.idle + time.Duration(int64(n)*int64(time.Second)/minRate) - time.Since(w.start)
	w.timer.Reset(min(w.idle, max(left, 0)))
}

func (w *watchdog) stop() { w.timer.Stop() }
