package s3test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7/pkg/signer"
)

// A Fault is what a Proxy does to an answer.
type Fault int

// The faults.
const (
	None          Fault = iota
	Status500           // before the request reaches the server
	Status503           // SlowDown, before the request reaches the server
	LostAnswer          // the server does what the request says, the client gets 500
	Truncated           // half of the body, then the connection ends
	ShortLength         // half of the body, as if it were all
	WrongByte           // a byte in the middle of the body is changed
	Slow                // 1 KiB every 20 ms
	Hangs               // the answer comes only when the client gives up
	Unanswered          // the same, but the server does what the request says
	NoLength            // the answer has no Content-Length
	Unconditional       // the server does not see If-Match and If-None-Match
	Status501           // NotImplemented, before the request reaches the server
)

// A Proxy forwards requests to a Server and makes faults.
type Proxy struct {
	*httptest.Server
	Requests atomic.Int64

	choose atomic.Pointer[func(*http.Request) Fault]
}

// NewProxy starts a proxy without faults.
func NewProxy(s *Server) (*Proxy, error) {
	target, err := url.Parse(s.Endpoint)
	if err != nil {
		return nil, err
	}
	p := &Proxy{}
	p.Set(func(*http.Request) Fault { return None })
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
		},
		ModifyResponse: damage,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
		ErrorLog: log.New(io.Discard, "", 0), // it tells of every fault
	}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.Requests.Add(1)
		fault := (*p.choose.Load())(r)
		switch fault {
		case Status500:
			fail(w, http.StatusInternalServerError, "InternalError")
			return
		case Status503:
			fail(w, http.StatusServiceUnavailable, "SlowDown")
			return
		case LostAnswer:
			forward.ServeHTTP(httptest.NewRecorder(), r)
			fail(w, http.StatusInternalServerError, "InternalError")
			return
		case Hangs:
			_, _ = io.Copy(io.Discard, r.Body) // or the server does not see that the client gives up
			<-r.Context().Done()
			return
		case Unanswered:
			forward.ServeHTTP(httptest.NewRecorder(), r.WithContext(context.WithoutCancel(r.Context())))
			<-r.Context().Done()
			return
		case Unconditional:
			without, err := unconditional(r)
			if err != nil {
				fail(w, http.StatusBadRequest, "InvalidRequest")
				return
			}
			r = without
		case Status501:
			fail(w, http.StatusNotImplemented, "NotImplemented")
			return
		}
		r.Header.Set(faultHeader, strconv.Itoa(int(fault)))
		forward.ServeHTTP(w, r)
	}))
	return p, nil
}

// Set chooses the fault of each request from now on.
func (p *Proxy) Set(choose func(*http.Request) Fault) { p.choose.Store(&choose) }

// faultHeader brings the fault to damage. The server ignores it: it is not signed.
const faultHeader = "X-Fault"

func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>made by the test</Message></Error>", code)
}

// damage changes the body of an answer.
func damage(resp *http.Response) error {
	n, _ := strconv.Atoi(resp.Request.Header.Get(faultHeader))
	half := resp.ContentLength / 2
	if resp.StatusCode >= 300 || resp.ContentLength <= 0 {
		return nil
	}
	switch body := resp.Body; Fault(n) {
	case Truncated:
		resp.Body = changed{&broken{io.LimitReader(body, half)}, body}
	case ShortLength:
		resp.Body = changed{io.LimitReader(body, half), body}
		resp.ContentLength = half
		resp.Header.Set("Content-Length", strconv.FormatInt(half, 10))
	case WrongByte:
		resp.Body = changed{&flipped{body, half}, body}
	case Slow:
		resp.Body = changed{slow{body}, body}
	case NoLength:
		resp.ContentLength = -1
		resp.Header.Del("Content-Length")
	}
	return nil
}

type changed struct {
	io.Reader
	io.Closer
}

// broken ends with an error instead of io.EOF.
type broken struct{ r io.Reader }

func (b *broken) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// flipped changes a byte.
type flipped struct {
	r  io.Reader
	at int64
}

func (f *flipped) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if f.at >= 0 && f.at < int64(n) {
		p[f.at] ^= 1
	}
	f.at -= int64(n)
	return n, err
}

type slow struct{ r io.Reader }

func (s slow) Read(p []byte) (int, error) {
	time.Sleep(20 * time.Millisecond)
	return s.r.Read(p[:min(len(p), 1<<10)])
}

// unconditional returns a request without conditions. They were signed: the request is signed again, and
// its body, whose chunks were signed too, is not.
func unconditional(r *http.Request) (*http.Request, error) {
	body, err := io.ReadAll(r.Body)
	if err == nil && strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-") {
		body, err = unchunk(body)
	}
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	for _, name := range []string{"If-Match", "If-None-Match", "Content-Encoding", "X-Amz-Decoded-Content-Length", "X-Amz-Trailer", "Authorization", "Content-Length"} {
		r.Header.Del(name)
	}
	r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
	r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	r.URL.Host = r.Host
	return signer.SignV4(*r, AccessKey, SecretKey, "", "us-east-1"), nil
}

// unchunk returns the content of a body in chunks: the size in hexadecimal digits, a signature, the bytes.
func unchunk(body []byte) (out []byte, err error) {
	for {
		head, rest, _ := bytes.Cut(body, []byte("\r\n"))
		size, _, _ := strings.Cut(string(head), ";")
		n, err := strconv.ParseUint(size, 16, 31)
		if err != nil || n > uint64(len(rest)) {
			return nil, fmt.Errorf("chunk %q of a body: %w", head, err)
		}
		if n == 0 {
			return out, nil
		}
		out, body = append(out, rest[:n]...), bytes.TrimPrefix(rest[n:], []byte("\r\n"))
	}
}
