package p2p

import (
	"context"
	"net"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
)

// One record holds so many bytes for sure: crypto/tls begins a connection with small ones,
// and comes to 16 KiB later.
const oneRecord = 1 << 10

// A corked transport makes one write to the socket of each write to its connections.
// crypto/tls makes one of each record, which wakes the other side as often.
type corked struct{ sec.SecureTransport }

func (t corked) SecureInbound(ctx context.Context, insecure net.Conn, p peer.ID) (sec.SecureConn, error) {
	socket := &cork{Conn: insecure}
	conn, err := t.SecureTransport.SecureInbound(ctx, socket, p)
	return socket.under(conn), err
}

func (t corked) SecureOutbound(ctx context.Context, insecure net.Conn, p peer.ID) (sec.SecureConn, error) {
	socket := &cork{Conn: insecure}
	conn, err := t.SecureTransport.SecureOutbound(ctx, socket, p)
	return socket.under(conn), err
}

// A cork is a socket that can hold back what is written to it.
type cork struct {
	net.Conn

	mu   sync.Mutex
	held *[]byte // nil: nothing is held back
	lost error   // why something that was held back is not on its way: nothing may follow it
}

var corks = sync.Pool{New: func() any { return new([]byte) }}

func (c *cork) under(conn sec.SecureConn) sec.SecureConn {
	if conn == nil {
		return nil
	}
	return &corkedConn{conn, c}
}

// Write writes b, or holds a copy of it back.
func (c *cork) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost != nil {
		return 0, c.lost
	}
	if c.held == nil {
		return c.Conn.Write(b)
	}
	*c.held = append(*c.held, b...)
	return len(b), nil
}

func (c *cork) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		c.held = corks.Get().(*[]byte)
	}
}

// release writes what was held back.
func (c *cork) release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.held
	if b == nil {
		return nil
	}
	c.held = nil
	if c.lost == nil {
		_, c.lost = c.Conn.Write(*b)
	}
	*b = (*b)[:0]
	corks.Put(b)
	return c.lost
}

type corkedConn struct {
	sec.SecureConn
	socket *cork
}

func (c *corkedConn) Write(b []byte) (int, error) {
	if len(b) <= oneRecord {
		return c.SecureConn.Write(b)
	}
	c.socket.hold()
	n, err := c.SecureConn.Write(b)
	if e := c.socket.release(); err == nil && e != nil {
		return 0, e
	}
	return n, err
}
