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
	idleLimit   = 2 * time.Minute // of a stream that is read, between messages
	sendLimit   = 10 * time.Second
	sendRate    = 64 << 10 // least bytes a second after that
	readBuffer  = 4 << 10
	openTimeout = 10 * time.Second
)

// listeners let a few streams of each peer be read at a time; the others wait, since a
// stock node opens one for each message.
type listeners struct {
	mu    sync.Mutex
	peers map[peer.ID]*slots
}

type slots struct {
	users int
	free  chan struct{}
}

// read reads the messages of a stream until it ends or breaks a rule.
func (l *listeners) read(s network.Stream, progress func(), p parts) error {
	leave, err := l.enter(s.Conn().RemotePeer())
	if err != nil {
		s.Reset()
		return err
	}
	defer leave()
	r := bufio.NewReaderSize(watched{s, progress}, readBuffer)
	for {
		s.SetReadDeadline(time.Now().Add(idleLimit)) // a stream without deadlines is as well without
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

// enter waits until another stream of a peer may be read.
func (l *listeners) enter(id peer.ID) (leave func(), err error) {
	l.mu.Lock()
	if l.peers == nil {
		l.peers = map[peer.ID]*slots{}
	}
	s := l.peers[id]
	if s == nil {
		s = &slots{free: make(chan struct{}, maxStreams)}
		l.peers[id] = s
	}
	s.users++
	l.mu.Unlock()
	late := time.NewTimer(idleLimit)
	defer late.Stop()
	select {
	case s.free <- struct{}{}:
		return func() { <-s.free; l.gone(id) }, nil
	case <-late.C:
		l.gone(id)
		return nil, fmt.Errorf("more than %d streams for %s", maxStreams, idleLimit)
	}
}

func (l *listeners) gone(id peer.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.peers[id].users--; l.peers[id].users == 0 {
		delete(l.peers, id)
	}
}

// watched calls progress whenever something was read.
type watched struct {
	io.Reader
	progress func()
}

func (w watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if n > 0 && w.progress != nil {
		w.progress()
	}
	return n, err
}

// A sender writes messages to one peer, on one stream while that lasts.
type sender struct {
	host host.Host
	id   peer.ID

	mu     sync.Mutex
	stream network.Stream
}

// send writes one message. It never dials.
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

// write writes on the stream that there is, and drops it when that fails.
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

// close ends the stream; what was written arrives.
func (s *sender) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stream != nil {
		s.stream.Close()
		s.stream = nil
	}
}
