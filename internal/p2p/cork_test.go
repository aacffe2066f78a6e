package p2p

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/sec"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// A counted socket counts what is written to it, and breaks when it is told to.
type counted struct {
	net.Conn
	writes atomic.Int64
	broken atomic.Bool
}

var errBroken = errors.New("broken")

func (c *counted) Write(b []byte) (int, error) {
	c.writes.Add(1)
	if c.broken.Load() {
		return 0, errBroken
	}
	return c.Conn.Write(b)
}

// corkedPair is the two ends of a connection, and the socket of the first.
func corkedPair(t *testing.T) (near, far sec.SecureConn, socket *counted) {
	t.Helper()
	a, b := net.Pipe()
	socket = &counted{Conn: a}
	t.Cleanup(func() { a.Close(); b.Close() })
	make := func() corked {
		key, _, err := crypto.GenerateEd25519Key(nil)
		check(t, err)
		overTLS, err := libp2ptls.New(libp2ptls.ID, key, nil)
		check(t, err)
		return corked{overTLS}
	}
	accepted := inBackground(func() (err error) {
		far, err = make().SecureInbound(t.Context(), b, "")
		return err
	})
	near, err := make().SecureOutbound(t.Context(), socket, "")
	check(t, err)
	check(t, <-accepted)
	return near, far, socket
}

func inBackground(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

func TestManyRecordsAreOneWriteToTheSocket(t *testing.T) {
	near, far, socket := corkedPair(t)
	for _, size := range []int{1, oneRecord, oneRecord + 1, 16 << 10, 64 << 10, 1 << 20} {
		sent := bytes.Repeat([]byte{byte(size), 7}, size)[:size]
		got := make([]byte, size)
		read := inBackground(func() error { _, err := io.ReadFull(far, got); return err })
		socket.writes.Store(0)
		if n, err := near.Write(sent); n != size || err != nil {
			t.Fatalf("wrote %d of %d bytes: %v", n, size, err)
		}
		check(t, <-read)
		if n := socket.writes.Load(); n != 1 || !bytes.Equal(got, sent) {
			t.Errorf("%d bytes were %d writes, the same on the other side: %v", size, n, bytes.Equal(got, sent))
		}
	}
}

func TestACorkedWriteTellsOfABrokenSocket(t *testing.T) {
	near, far, socket := corkedPair(t)
	inBackground(func() error { _, err := io.Copy(io.Discard, far); return err })
	socket.broken.Store(true)
	if n, err := near.Write(make([]byte, 64<<10)); n != 0 || err == nil {
		t.Errorf("wrote %d bytes to a broken socket: %v", n, err)
	}
	socket.broken.Store(false)
	socket.writes.Store(0)
	for _, size := range []int{1, 64 << 10} { // records that are lost leave a gap: nothing follows them
		if n, err := near.Write(make([]byte, size)); n != 0 || err == nil || socket.writes.Load() > 0 {
			t.Errorf("wrote %d bytes behind a gap: %v", n, err)
		}
	}
}
