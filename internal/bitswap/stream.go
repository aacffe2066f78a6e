package bitswap

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/cas"
)

const (
	maxStreams  = 4               // of one peer that are read at a time
	idleLimit   = 2 * time.Minute // between two messages of a stream
	sendLimit   = 10 * time.Second
	sendRate    = 64 << 10 // bytes a second, lowest average after sendLimit
	readBuffer  = 4 << 10
	openTimeout = 10 * time.Second
)

// A streamLimiter bounds how many streams of each peer are read at a time. Further streams wait: a stock
// node opens one for each message.
type streamLimiter struct {
	mu    sync.Mutex
	peers map[peer.ID]*peerStreams
}

type peerStreams struct {
	users int
	free  chan struct{}
}

// read reads the messages of a stream until it ends or has an error. progress, which may be nil,
// is called whenever bytes arrive.
func (l *streamLimiter) read(s network.Stream, progress func(), p handlers) error {
	leave, err := l.acquire(s.Conn().RemotePeer())
	if err != nil {
		s.Reset()
		return err
	}
	defer leave()
	r := bufio.NewReaderSize(progressReader{s, progress}, readBuffer)
	for {
		s.SetReadDeadline(time.Now().Add(idleLimit)) // a stream of a test may have no deadlines
		err := readMessage(r, p)
		if err == io.EOF {
			return s.Close()
		}
		if err != nil {
			s.Reset()
			return err
		}
	}
}

// acquire waits until one more stream of a peer may be read.
func (l *streamLimiter) acquire(id peer.ID) (leave func(), err error) {
	l.mu.Lock()
	if l.peers == nil {
		l.peers = map[peer.ID]*peerStreams{}
	}
	s := l.peers[id]
	if s == nil {
		s = &peerStreams{free: make(chan struct{}, maxStreams)}
		l.peers[id] = s
	}
	s.users++
	l.mu.Unlock()
	select {
	case s.free <- struct{}{}:
		return func() { <-s.free; l.release(id) }, nil
	case <-time.After(idleLimit):
		l.release(id)
		return nil, fmt.Errorf("more than %d streams for %s", maxStreams, idleLimit)
	}
}

func (l *streamLimiter) release(id peer.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.peers[id].users--; l.peers[id].users == 0 {
		delete(l.peers, id)
	}
}

// progressReader calls progress whenever bytes were read.
type progressReader struct {
	io.Reader
	progress func()
}

func (w progressReader) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if n > 0 && w.progress != nil {
		w.progress()
	}
	return n, err
}

// A sender writes messages to one peer, on one stream for as long as that works.
type sender struct {
	host host.Host
	id   peer.ID

	mu     sync.Mutex
	stream network.Stream
}

// send writes one message, on a new stream if the last one failed. It does not dial.
func (s *sender) send(ctx context.Context, message []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stream != nil && s.write(ctx, message) == nil {
		return nil
	}
	opening, cancel := context.WithTimeout(network.WithNoDial(ctx, "connected before"), openTimeout)
	defer cancel()
	stream, err := s.host.NewStream(opening, s.id, Protocol)
	if err == nil {
		s.stream = stream
		err = s.write(ctx, message)
	}
	if err != nil {
		return fmt.Errorf("peer %s: Bitswap: %w (%w)", s.id, err, cas.ErrUnreachable)
	}
	return nil
}

// write writes on the current stream, and drops the stream after an error.
func (s *sender) write(ctx context.Context, message []byte) error {
	stream := s.stream
	defer context.AfterFunc(ctx, func() { stream.Reset() })()
	stream.SetWriteDeadline(time.Now().Add(sendLimit + time.Duration(len(message))*time.Second/sendRate))
	_, err := stream.Write(append(binary.AppendUvarint(nil, uint64(len(message))), message...))
	if err != nil {
		stream.Reset()
		s.stream = nil
	}
	return err
}

// close closes the stream after the bytes that were written.
func (s *sender) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stream != nil {
		s.stream.Close()
		s.stream = nil
	}
}
