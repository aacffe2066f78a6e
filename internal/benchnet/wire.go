package main

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// wireBuffer is how many bytes may be on their way in one direction.
const wireBuffer = 64 << 10

// A wire is one end of a connection inside this process: a net.Conn that takes no file.
type wire struct {
	in, out       *stretch
	local, remote net.Addr
	reads, writes deadline
}

// A stretch is one direction of a wire.
type stretch struct {
	mu    sync.Mutex
	buf   []byte
	ended bool
	moved chan struct{} // closed and replaced when something was written, read or ended
}

// newWire returns both ends.
func newWire(a, b net.Addr) (*wire, *wire) {
	to, fro := &stretch{moved: make(chan struct{})}, &stretch{moved: make(chan struct{})}
	return &wire{in: fro, out: to, local: a, remote: b}, &wire{in: to, out: fro, local: b, remote: a}
}

func (s *stretch) tell() {
	close(s.moved)
	s.moved = make(chan struct{})
}

// end lets the reader have what is there already, unless it is the reader who ends it.
func (s *stretch) end(keep bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !keep {
		s.buf = nil
	}
	if !s.ended {
		s.ended = true
		s.tell()
	}
}

// read takes what is there; none and a channel to wait on when that is nothing.
func (s *stretch) read(p []byte) (n int, wait <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.buf) == 0 && s.ended {
		return 0, nil, io.EOF
	}
	if len(s.buf) == 0 {
		return 0, s.moved, nil
	}
	n = copy(p, s.buf)
	if s.buf = s.buf[n:]; len(s.buf) == 0 {
		s.buf = nil
	}
	s.tell()
	return n, nil, nil
}

// write puts what there is room for.
func (s *stretch) write(p []byte) (n int, wait <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return 0, nil, io.ErrClosedPipe
	}
	if n = min(len(p), wireBuffer-len(s.buf)); n == 0 {
		return 0, s.moved, nil
	}
	s.buf = append(s.buf, p[:n]...)
	s.tell()
	return n, nil, nil
}

func (w *wire) Read(p []byte) (int, error) {
	for {
		woken, over := w.reads.state()
		if over {
			return 0, os.ErrDeadlineExceeded
		}
		n, wait, err := w.in.read(p)
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
		select {
		case <-wait:
		case <-woken:
		}
	}
}

func (w *wire) Write(p []byte) (sent int, err error) {
	for sent < len(p) {
		woken, over := w.writes.state()
		if over {
			return sent, os.ErrDeadlineExceeded
		}
		n, wait, err := w.out.write(p[sent:])
		if sent += n; err != nil {
			return sent, err
		}
		if n > 0 {
			continue
		}
		select {
		case <-wait:
		case <-woken:
		}
	}
	return sent, nil
}

func (w *wire) Close() error {
	w.in.end(false)
	w.out.end(true)
	return nil
}

func (w *wire) LocalAddr() net.Addr  { return w.local }
func (w *wire) RemoteAddr() net.Addr { return w.remote }

func (w *wire) SetDeadline(t time.Time) error {
	w.reads.set(t)
	w.writes.set(t)
	return nil
}

func (w *wire) SetReadDeadline(t time.Time) error {
	w.reads.set(t)
	return nil
}

func (w *wire) SetWriteDeadline(t time.Time) error {
	w.writes.set(t)
	return nil
}

// A deadline wakes who waits when it passes or is moved.
type deadline struct {
	mu    sync.Mutex
	at    time.Time
	woken chan struct{}
	timer *time.Timer
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	d.wake()
	if !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.wake()
		})
	}
}

func (d *deadline) wake() {
	if d.woken != nil {
		close(d.woken)
		d.woken = nil
	}
}

// state reports whether it has passed, and what is closed when that may change.
func (d *deadline) state() (woken <-chan struct{}, over bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.woken == nil {
		d.woken = make(chan struct{})
	}
	return d.woken, !d.at.IsZero() && !time.Now().Before(d.at)
}
