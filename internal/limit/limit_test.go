package limit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAClientIsAnAddressASubscriberOrAPeer(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.7:4001":                "192.0.2.7",
		"[::ffff:192.0.2.7]:80":         "192.0.2.7",
		"[2001:db8:1:2ff:3:4:5:6]:80":   "2001:db8:1:200::/56",
		"[fe80::1%eth0]:80":             "fe80::/56",
		"12D3KooWRQYxvmt7VyfsDzi3oQfqT": "12D3KooWRQYxvmt7VyfsDzi3oQfqT",
	} {
		if got := ClientKey(remote); got != want {
			t.Errorf("%s: got %s, want %s", remote, got, want)
		}
	}
}

// fill answers with n bytes, as a gateway writes them.
func fill(n int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for left := n; left > 0; left -= 100_000 {
			if _, err := w.Write(make([]byte, min(left, 100_000))); err != nil {
				panic(http.ErrAbortHandler)
			}
		}
	})
}

// sendTo sends n bytes to each of the clients at once and returns how long that takes.
func sendTo(t *testing.T, o Options, n int, clients ...string) (d time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		rates, start := NewRates(o), time.Now()
		var all sync.WaitGroup
		for _, from := range clients {
			all.Go(func() {
				r := httptest.NewRequest("GET", "/", nil)
				r.RemoteAddr = from
				w := httptest.NewRecorder()
				rates.Handler(fill(n)).ServeHTTP(w, r)
				if w.Body.Len() != n {
					t.Errorf("received %d bytes", w.Body.Len())
				}
			})
		}
		all.Wait()
		d = time.Since(start)
	})
	return d
}

func TestRatesHoldInAllAndForOneClient(t *testing.T) {
	const mega = 300_000
	one, other, peer := "192.0.2.1:1", "192.0.2.2:2", "12D3KooWRQYxvmt7VyfsDzi3oQfqT"
	for _, tt := range []struct {
		name    string
		o       Options
		clients []string
		want    time.Duration // for 3 MB each, but for a burst of a quarter second
	}{
		{"none", Options{}, []string{one, other}, 0},
		{"total, one client", Options{Total: mega}, []string{one}, 10 * time.Second},
		{"total, three clients", Options{Total: mega}, []string{one, other, peer}, 30 * time.Second},
		{"per client, three clients", Options{PerClient: mega}, []string{one, other, peer}, 10 * time.Second},
		{"per client, one client with two connections", Options{PerClient: mega}, []string{one, "192.0.2.1:7"}, 20 * time.Second},
		{"per client, one stream twice", Options{PerClient: mega}, []string{peer, peer}, 20 * time.Second},
		{"both", Options{Total: 3 * mega, PerClient: mega}, []string{one, other}, 10 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := sendTo(t, tt.o, 10*mega, tt.clients...); got > tt.want || got < tt.want-500*time.Millisecond {
				t.Errorf("took %v, want %v", got, tt.want)
			}
		})
	}
}

func TestAnAllowanceOutlivesTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rates, start := NewRates(Options{PerClient: 1 << 20}), time.Now()
		for range 40 { // of 256 KiB each, the burst of one
			r := httptest.NewRequest("GET", "/", nil)
			rates.Handler(fill(256<<10)).ServeHTTP(httptest.NewRecorder(), r)
		}
		if d := time.Since(start); d < 9*time.Second {
			t.Errorf("10 MiB in requests of 256 KiB took %v", d)
		}
	})
}

func TestIdleClientsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rates := NewRates(Options{PerClient: 1 << 20})
		for i := range 3 * maxIdle {
			_, done := rates.allowance(fmt.Sprint(i))
			done()
		}
		if n := len(rates.clients); n > maxIdle {
			t.Errorf("%d are remembered", n)
		}
	})
}

// serve runs a handler behind conns and returns its address. A connection that is closed is sent to
// closed, if that is given.
func serve(t *testing.T, h http.Handler, conns *Conns, closed ...chan<- net.Conn) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	s := conns.Server(h, 1<<16, time.Minute, nil)
	s.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateClosed && closed != nil {
			closed[0] <- c
		}
	}
	go s.Serve(conns.Listener(l))
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

func TestASlowReaderIsCutOffAndOurOwnLimitsDoNotCount(t *testing.T) {
	slow := make(chan struct{}, 1)
	rates := NewRates(Options{MinRate: 64 << 20, Grace: 100 * time.Millisecond, OnSlow: func() { slow <- struct{}{} }})
	addr := serve(t, rates.Handler(fill(64<<20)), &Conns{})
	c, err := net.Dial("tcp", addr)
	check(t, err)
	defer c.Close()
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-slow // the client has read nothing
	n, err := io.Copy(io.Discard, c)
	if err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
	if n >= 64<<20 {
		t.Errorf("received %d bytes", n)
	}

	rates = NewRates(Options{Total: 512 << 10, MinRate: 64 << 20, Grace: time.Second})
	resp, err := http.Get("http://" + serve(t, rates.Handler(fill(1<<20)), &Conns{}))
	check(t, err)
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); n != 1<<20 || err != nil {
		t.Errorf("waiting for our own limit: %d bytes, %v", n, err)
	}
}

// file returns a handler that answers with a file of n bytes, which the kernel copies.
func file(t *testing.T, n int64) http.Handler {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	check(t, os.WriteFile(path, nil, 0o600))
	check(t, os.Truncate(path, n))
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		f, err := os.Open(path)
		if err != nil {
			panic(err)
		}
		defer f.Close()
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", fmt.Sprint(n))
		if _, err := io.CopyN(w, f, n); err != nil {
			panic(http.ErrAbortHandler)
		}
	})
}

func TestAFileHasTheLimitsOfOtherBodies(t *testing.T) {
	slow := make(chan struct{}, 1)
	rates := NewRates(Options{MinRate: 64 << 20, Grace: 100 * time.Millisecond, OnSlow: func() { slow <- struct{}{} }})
	c, err := net.Dial("tcp", serve(t, rates.Handler(file(t, 64<<20)), &Conns{}))
	check(t, err)
	defer c.Close()
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	<-slow // the client has read nothing
	if n, _ := io.Copy(io.Discard, c); n >= 64<<20 {
		t.Errorf("a client that read nothing at first received %d bytes", n)
	}

	begun := time.Now()
	rates = NewRates(Options{Total: 2 << 20, MinRate: 64 << 20, Grace: time.Second})
	resp, err := http.Get("http://" + serve(t, rates.Handler(file(t, 2<<20)), &Conns{}))
	check(t, err)
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if d := time.Since(begun); n != 2<<20 || err != nil || d < 700*time.Millisecond {
		t.Errorf("%d bytes, %v, in %v at 2 MiB a second", n, err, d)
	}
}

func TestAWaitEndsWithItsClient(t *testing.T) {
	ended := make(chan struct{})
	rates := NewRates(Options{Total: 1}) // after the burst, a day for a piece
	h := rates.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		fill(1<<20).ServeHTTP(w, r)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+serve(t, h, &Conns{}), nil)
	check(t, err)
	resp, err := http.DefaultClient.Do(req)
	check(t, err)
	defer resp.Body.Close()
	cancel()
	<-ended
}

// from dials addr from an address of the loopback network.
func from(t *testing.T, ip, addr string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	c, err := d.Dial("tcp", addr)
	check(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// status sends a request and returns the status.
func status(t *testing.T, c net.Conn) int {
	t.Helper()
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

func TestConnectionsOfOneAddressAreBounded(t *testing.T) {
	var refused atomic.Int32
	conns := &Conns{Max: 10, PerClient: 2, Refused: func(why string) {
		if why == PerClient {
			refused.Add(1)
		}
	}}
	closed := make(chan net.Conn, 10)
	addr := serve(t, fill(10), conns, closed)
	first := from(t, "127.0.1.1", addr)
	for _, c := range []net.Conn{first, from(t, "127.0.1.1", addr), from(t, "127.0.1.2", addr)} {
		if s := status(t, c); s != 200 {
			t.Errorf("got %d", s)
		}
	}
	if s := status(t, from(t, "127.0.1.1", addr)); s != 503 && s != 0 { // 0: it was reset before it read
		t.Errorf("the third connection of one address: %d", s)
	}
	if refused.Load() != 1 {
		t.Errorf("%d refused", refused.Load())
	}
	first.Close()
	<-closed
	if s := status(t, from(t, "127.0.1.1", addr)); s != 200 {
		t.Errorf("after one was closed: %d", s)
	}
}

func TestIdleConnectionsAreEvictedAndBusyOnesAreNot(t *testing.T) {
	why := make(chan string, 10)
	conns := &Conns{Max: 3, Refused: func(s string) { why <- s }}
	working, release := make(chan struct{}), make(chan struct{})
	addr := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		working <- struct{}{}
		<-release
	}), conns)
	idle := from(t, "127.0.0.1", addr)
	busyConn := func() net.Conn {
		c := from(t, "127.0.0.1", addr)
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		<-working
		return c
	}
	a := busyConn()
	half := from(t, "127.0.0.1", addr)
	fmt.Fprintf(half, "GET / HTTP/1.1\r\nHo") // an unfinished header
	b := busyConn()
	if got := <-why; got != Evicted {
		t.Errorf("got %s", got)
	}
	if _, err := idle.Read(make([]byte, 1)); err == nil {
		t.Error("the idle connection is still open")
	}
	c := busyConn()
	if got := <-why; got != Evicted {
		t.Errorf("got %s", got)
	}
	if s := status(t, from(t, "127.0.0.1", addr)); s != 503 && s != 0 {
		t.Errorf("with all busy: %d", s)
	}
	if got := <-why; got != Full {
		t.Errorf("got %s", got)
	}
	close(release)
	for _, k := range []net.Conn{a, b, c} {
		if resp, err := http.ReadResponse(bufio.NewReader(k), nil); err != nil || resp.StatusCode != 200 {
			t.Errorf("a busy connection: %v", err)
		}
	}
}

// fewFiles is a listener whose process has files for room connections.
type fewFiles struct {
	net.Listener
	room, open *atomic.Int64
}

func (l fewFiles) Accept() (net.Conn, error) {
	if l.open.Load() >= l.room.Load() {
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.open.Add(1)
	return countedConn{c, sync.OnceFunc(func() { l.open.Add(-1) })}, nil
}

type countedConn struct {
	net.Conn
	gone func()
}

func (c countedConn) Close() error {
	c.gone()
	return c.Conn.Close()
}

func TestIdleConnectionsAreClosedWhenFilesRunOut(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	room, open := &atomic.Int64{}, &atomic.Int64{}
	room.Store(8)
	evicted := 0
	conns := &Conns{Refused: func(string) { evicted++ }}
	few := fewFiles{inner, room, open}
	main, operator := conns.Listener(few), conns.OperatorListener(few)
	dial := func() {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	for i := range 20 {
		dial()
		if _, err := main.Accept(); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	if _, err := func() (net.Conn, error) { dial(); return operator.Accept() }(); err != nil || evicted == 0 {
		t.Errorf("the operator's connection: %v, after %d were evicted", err, evicted)
	}
	room.Store(0)
	for conns.evictIdle() {
	}
	if _, err := main.Accept(); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("with nothing to evict: %v", err)
	}
}

// The bytes of an answer that was cut short were sent.
func TestAnAnswerThatIsCutShortIsCounted(t *testing.T) {
	var sent atomic.Int64
	rates := NewRates(Options{Sent: func(n int64) { sent.Add(n) }})
	h := rates.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write(make([]byte, 512<<10))
		panic(http.ErrAbortHandler)
	}))
	resp, err := http.Get("http://" + serve(t, h, &Conns{}))
	check(t, err)
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	if n := sent.Load(); n != 512<<10 {
		t.Errorf("%d bytes were counted", n)
	}
}

// A body that does not arrive would keep its connection and the goroutine behind it for ever.
func TestABodyThatDoesNotArriveEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		s := &http.Server{Handler: NewRates(Options{}).Handler(http.NotFoundHandler())}
		go s.Serve(&oneConn{conn: ours, done: make(chan struct{})})
		defer s.Close()
		start := time.Now()
		go io.WriteString(theirs, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
		io.Copy(io.Discard, theirs)
		if d := time.Since(start); d < bodyTimeout || d > 2*bodyTimeout {
			t.Errorf("the connection ended after %v", d)
		}
	})
}

// oneConn is a listener with one connection.
type oneConn struct {
	conn net.Conn
	done chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.done
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error {
	close(l.done)
	return nil
}

func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }
