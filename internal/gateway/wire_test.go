package gateway

import (
	"context"
	"net"
	"net/http"
	"testing"
)

// A wire is a listener in memory. In a bubble of synctest its deadlines follow the clock of the
// bubble, which stops while a goroutine runs, so that a busy machine breaks no deadline.
type wire chan net.Conn

func (w wire) Accept() (net.Conn, error) {
	if c, ok := <-w; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (w wire) Close() error {
	close(w)
	return nil
}

func (w wire) Addr() net.Addr { return &net.TCPAddr{} }

func (w wire) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	w <- far
	return near, nil
}

// wired returns a client of a gateway over a wire.
func wired(t *testing.T, h http.Handler) *Client {
	t.Helper()
	w := make(wire)
	s, web := &http.Server{Handler: h}, NewHTTP(w.dial)
	go s.Serve(w)
	t.Cleanup(func() {
		s.Close()
		web.CloseIdleConnections()
	})
	return &Client{Base: "http://wire", HTTP: web}
}
