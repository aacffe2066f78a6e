package limit

import (
	"container/list"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Why a connection was refused or closed.
const (
	PerAsker = "per_asker" // its address has as many as it may
	Full     = "full"      // all are busy
	Evicted  = "evicted"   // it was idle when another needed its place
)

// busy is what a connection that is refused gets to read, if it reads at all.
const busy = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

// Conns bounds the open connections of an HTTP server. When all are taken, a new one
// gets the place of the one that has been silent for longest, whether it has not finished
// its first request or waits before its next, so that a flood of silent or slow connections
// keeps nobody out. A connection that is refused reads 503 with Retry-After.
type Conns struct {
	Max      int              // in all; 0 is no limit
	PerAsker int              // of one asker; 0 is no limit
	Refused  func(why string) // PerAsker, Full or Evicted; nil is fine

	mu    sync.Mutex
	open  int
	by    map[string]int
	quiet list.List // of *conn, the one that fell silent last in front
}

// Listener bounds what l accepts. When the process has too many open files, idle
// connections are closed.
func (c *Conns) Listener(l net.Listener) net.Listener { return &listener{l, c} }

// Beside returns l without a bound, for an operator's own connections: when the process has
// too many open files, idle connections of c are closed for them.
func (c *Conns) Beside(l net.Listener) net.Listener { return &besideListener{l, c} }

type besideListener struct {
	net.Listener
	conns *Conns
}

func (l *besideListener) Accept() (net.Conn, error) { return l.conns.accept(l.Listener) }

// accept closes idle connections until there is a file for the next one. Without any, the
// error is left to the server, which tries again after a pause.
func (c *Conns) accept(l net.Listener) (net.Conn, error) {
	for {
		nc, err := l.Accept()
		if !outOfFiles(err) || !c.relieve() {
			return nc, err
		}
	}
}

// relieve closes a quarter of the connections, or as many as are idle, those that have been
// silent for longest. It reports whether there was one.
func (c *Conns) relieve() bool {
	c.mu.Lock()
	var idle []*conn
	for n := c.open/4 + 1; n > 0 && c.quiet.Len() > 0; n-- {
		k := c.quiet.Back().Value.(*conn)
		c.leave(k)
		idle = append(idle, k)
	}
	c.mu.Unlock()
	for _, k := range idle {
		c.refused(Evicted)
		k.Conn.Close()
	}
	return len(idle) > 0
}

// Open is how many connections there are.
func (c *Conns) Open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open
}

type connKey struct{}

// Guard tells c which connections of a server are busy: those whose request has arrived
// whole and whose handler has not returned.
func (c *Conns) Guard(s *http.Server) {
	s.ConnContext = func(ctx context.Context, nc net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, nc)
	}
	next := s.Handler
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if k, ok := r.Context().Value(connKey{}).(*conn); ok {
			c.asks(k)
			defer c.falls(k)
		}
		next.ServeHTTP(w, r)
	})
}

func (c *Conns) asks(k *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wake(k)
}

func (c *Conns) falls(k *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !k.closed {
		k.quiet = c.quiet.PushFront(k)
	}
}

// wake takes a connection off the list of the silent ones.
func (c *Conns) wake(k *conn) {
	if k.quiet != nil {
		c.quiet.Remove(k.quiet)
		k.quiet = nil
	}
}

// admit counts a new connection. The one returned has to make place for it.
func (c *Conns) admit(k *conn) (evict *conn, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.PerAsker > 0 && c.by[k.asker] >= c.PerAsker {
		return nil, PerAsker
	}
	if c.Max > 0 && c.open >= c.Max {
		oldest := c.quiet.Back()
		if oldest == nil {
			return nil, Full
		}
		evict, why = oldest.Value.(*conn), Evicted
		c.leave(evict)
	}
	if c.by == nil {
		c.by = map[string]int{}
	}
	c.open++
	c.by[k.asker]++
	k.quiet = c.quiet.PushFront(k)
	return evict, why
}

// leave stops counting a connection.
func (c *Conns) leave(k *conn) {
	if k.closed {
		return
	}
	k.closed = true
	c.wake(k)
	c.open--
	if c.by[k.asker]--; c.by[k.asker] == 0 {
		delete(c.by, k.asker)
	}
}

func (c *Conns) refused(why string) {
	if why != "" && c.Refused != nil {
		c.Refused(why)
	}
}

type listener struct {
	net.Listener
	conns *Conns
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.conns.accept(l.Listener)
		if err != nil {
			return nil, err
		}
		k := &conn{Conn: nc, conns: l.conns, asker: Asker(nc.RemoteAddr().String())}
		evict, why := l.conns.admit(k)
		l.conns.refused(why)
		if evict != nil {
			evict.Conn.Close()
		}
		if why == "" || evict != nil {
			return k, nil
		}
		nc.SetWriteDeadline(time.Now().Add(time.Second)) // a new connection's buffer is empty
		nc.Write([]byte(busy))
		nc.Close()
	}
}

type conn struct {
	net.Conn
	conns *Conns
	asker string

	quiet  *list.Element // under Conns.mu
	closed bool
}

// ReadFrom lets a file go out without a copy.
func (k *conn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(k.Conn, r) }

func (k *conn) Close() error {
	k.conns.mu.Lock()
	k.conns.leave(k)
	k.conns.mu.Unlock()
	return k.Conn.Close()
}
