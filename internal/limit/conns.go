package limit

import (
	"container/list"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Why a connection was refused or closed. The values are label values of a metric.
const (
	PerClient = "per_asker" // the client has its maximum of connections
	Full      = "full"      // all connections are busy
	Evicted   = "evicted"   // it was idle, and a new connection needed its place
)

// busyResponse is sent on a connection that is refused.
const busyResponse = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

const headerTimeout = 10 * time.Second // for the header of a request

// Conns bounds the open connections of an HTTP server. A connection is busy from the arrival of
// a whole request header until the handler returns, and idle otherwise. If all places are taken,
// a new connection replaces the one that has been idle longest, so that a flood of idle or slow
// connections does not keep other clients out. A connection that is refused receives 503 with
// Retry-After.
type Conns struct {
	Max       int              // in all; 0 is no limit
	PerClient int              // from one client; 0 is no limit
	Refused   func(why string) // called with PerClient, Full or Evicted; nil is fine

	mu       sync.Mutex
	open     int
	byClient map[string]int
	idle     list.List // of *conn, longest idle at the back
}

// Listener returns l with the bounds of c. If the process has too many open files, idle
// connections are closed.
func (c *Conns) Listener(l net.Listener) net.Listener { return listener{l, c.acceptBounded} }

// OperatorListener returns l without a bound, for the connections of an operator. If the process
// has too many open files, idle connections of c are closed to make room.
func (c *Conns) OperatorListener(l net.Listener) net.Listener { return listener{l, c.accept} }

type listener struct {
	net.Listener
	accept func(net.Listener) (net.Conn, error)
}

func (l listener) Accept() (net.Conn, error) { return l.accept(l.Listener) }

// accept closes idle connections until there is a free file descriptor for the next connection.
// If none is idle it returns the error, and the server tries again after a pause.
func (c *Conns) accept(l net.Listener) (net.Conn, error) {
	for {
		nc, err := l.Accept()
		if !outOfFiles(err) || !c.evictIdle() {
			return nc, err
		}
	}
}

// evictIdle closes a quarter of the connections, or as many as are idle, longest idle first. It
// reports whether it closed any.
func (c *Conns) evictIdle() bool {
	c.mu.Lock()
	var evicted []*conn
	for n := c.open/4 + 1; n > 0 && c.idle.Len() > 0; n-- {
		k := c.idle.Back().Value.(*conn)
		c.remove(k)
		evicted = append(evicted, k)
	}
	c.mu.Unlock()
	for _, k := range evicted {
		c.refused(Evicted)
		k.Conn.Close()
	}
	return len(evicted) > 0
}

// Open returns the number of open connections.
func (c *Conns) Open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open
}

type connKey struct{}

// Server returns an HTTP server for h that marks the connections of c as busy and idle. The
// client has ten seconds for the header of a request, maxHeader bytes at most, and idle until
// its next request. The server logs at level debug; nil does not log.
func (c *Conns) Server(h http.Handler, maxHeader int, idle time.Duration, log *slog.Logger) *http.Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if k, ok := r.Context().Value(connKey{}).(*conn); ok {
				c.setBusy(k)
				defer c.setIdle(k)
			}
			h.ServeHTTP(w, r)
		}),
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, nc)
		},
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idle,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

func (c *Conns) setBusy(k *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeIdle(k)
}

func (c *Conns) setIdle(k *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !k.closed {
		k.idle = c.idle.PushFront(k)
	}
}

// removeIdle removes a connection from the list of idle ones. The caller holds c.mu.
func (c *Conns) removeIdle(k *conn) {
	if k.idle != nil {
		c.idle.Remove(k.idle)
		k.idle = nil
	}
}

// admit counts a new connection, or says why it is refused. The caller closes evict, whose place
// the new connection takes.
func (c *Conns) admit(k *conn) (evict *conn, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.PerClient > 0 && c.byClient[k.client] >= c.PerClient {
		return nil, PerClient
	}
	if c.Max > 0 && c.open >= c.Max {
		oldest := c.idle.Back()
		if oldest == nil {
			return nil, Full
		}
		evict, why = oldest.Value.(*conn), Evicted
		c.remove(evict)
	}
	if c.byClient == nil {
		c.byClient = map[string]int{}
	}
	c.open++
	c.byClient[k.client]++
	k.idle = c.idle.PushFront(k)
	return evict, why
}

// remove stops counting a connection. The caller holds c.mu.
func (c *Conns) remove(k *conn) {
	if k.closed {
		return
	}
	k.closed = true
	c.removeIdle(k)
	c.open--
	if c.byClient[k.client]--; c.byClient[k.client] == 0 {
		delete(c.byClient, k.client)
	}
}

func (c *Conns) refused(why string) {
	if why != "" && c.Refused != nil {
		c.Refused(why)
	}
}

// acceptBounded accepts the next connection that the bounds allow.
func (c *Conns) acceptBounded(l net.Listener) (net.Conn, error) {
	for {
		nc, err := c.accept(l)
		if err != nil {
			return nil, err
		}
		k := &conn{Conn: nc, conns: c, client: ClientKey(nc.RemoteAddr().String())}
		evict, why := c.admit(k)
		c.refused(why)
		if evict != nil {
			evict.Conn.Close()
		}
		if why == "" || evict != nil {
			return k, nil
		}
		nc.SetWriteDeadline(time.Now().Add(time.Second)) // a new connection's buffer is empty
		nc.Write([]byte(busyResponse))
		nc.Close()
	}
}

type conn struct {
	net.Conn
	conns  *Conns
	client string // as ClientKey names it

	idle   *list.Element // nil while it is busy; under Conns.mu
	closed bool
}

// ReadFrom lets the kernel send a file (sendfile).
func (k *conn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(k.Conn, r) }

func (k *conn) Close() error {
	k.conns.mu.Lock()
	k.conns.remove(k)
	k.conns.mu.Unlock()
	return k.Conn.Close()
}
