package gateway

import (
	"net"
	"sync"
)

// LimitConns bounds the open connections that l accepts: total of them, each from one
// IPv4 address or one /64 of IPv6. One too many is closed at once, which costs a flooding
// client its connection and nobody else anything.
func LimitConns(l net.Listener, total, each int) net.Listener {
	return &limitedListener{Listener: l, total: total, each: each, open: map[string]int{}}
}

type limitedListener struct {
	net.Listener
	total, each int

	mu   sync.Mutex
	all  int
	open map[string]int
}

// Accept returns the next connection within the limits.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		host, _, err := net.SplitHostPort(c.RemoteAddr().String())
		if err != nil {
			host = c.RemoteAddr().String()
		}
		if from := network(host); l.admit(from) {
			return &limitedConn{Conn: c, release: sync.OnceFunc(func() { l.release(from) })}, nil
		}
		c.Close()
	}
}

func (l *limitedListener) admit(from string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= l.total || l.open[from] >= l.each {
		return false
	}
	l.all++
	l.open[from]++
	return true
}

func (l *limitedListener) release(from string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.open[from]--; l.open[from] == 0 {
		delete(l.open, from)
	}
}

type limitedConn struct {
	net.Conn
	release func()
}

// Close closes the connection and makes room for another.
func (c *limitedConn) Close() error {
	c.release()
	return c.Conn.Close()
}
