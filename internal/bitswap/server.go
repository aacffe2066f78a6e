package bitswap

import (
	"container/list"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"sync"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/limit"
)

const (
	maxPeers     = 128       // peers that are answered at the same time
	maxPerClient = 64        // of them at one address
	maxWants     = 2048      // queued for one peer; further wants are dropped, and stock nodes send them again
	messageSize  = 256 << 10 // bytes after which a message is sent
	protectTag   = "bitswap" // tag that protects a connection in use
)

// A Store holds the blocks that a Server serves.
type Store interface {
	cas.Source
	Has(ctx context.Context, c cid.Cid) (bool, error)
}

// Options of a Server.
type Options struct {
	Store Store // its blocks are read through cas.Get
	// Remote returns the remote address of a connection as "IP:port"; nil takes the multiaddr.
	Remote func(network.ConnMultiaddrs) string
	// Throttle is called before blocks are sent to a client (the limit.ClientKey of Remote) and
	// may delay them. After an error the peer's wants are dropped. Nil is fine.
	Throttle func(ctx context.Context, client string, bytes int) error
	Sent     func(bytes int64) // called after each message with the bytes of its blocks; nil is fine
	Fault    func(err error)   // called with the reason why the store did not return a block; nil is fine
	Log      *slog.Logger      // nil: no log
}

// A Server answers the wants of peers.
type Server struct {
	Options
	host    host.Host
	streams streamLimiter
	ctx     context.Context
	cancel  context.CancelFunc
	tasks   sync.WaitGroup

	mu        sync.Mutex
	queues    map[peer.ID]*wantQueue
	perClient map[string]int // number of queues by address
	closed    bool
}

// Serve answers wants on a host until Close. It replaces the protocol handler of the host, so a
// Client on the same host would receive nothing.
func Serve(h host.Host, o Options) *Server {
	if o.Remote == nil {
		o.Remote = func(c network.ConnMultiaddrs) string { return c.RemoteMultiaddr().String() }
	}
	if o.Throttle == nil {
		o.Throttle = func(context.Context, string, int) error { return nil }
	}
	if o.Sent == nil {
		o.Sent = func(int64) {}
	}
	if o.Fault == nil {
		o.Fault = func(error) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{Options: o, host: h, queues: map[peer.ID]*wantQueue{}, perClient: map[string]int{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	h.SetStreamHandler(Protocol, s.handleStream)
	return s
}

// Close stops the server and waits for its goroutines.
func (s *Server) Close() error {
	s.host.RemoveStreamHandler(Protocol)
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.tasks.Wait()
	return nil
}

// handleStream reads the wants of one stream, message by message. It ignores the flag that a wantlist
// replaces the one before, as wants are answered within seconds.
func (s *Server) handleStream(stream network.Stream) {
	id, client := stream.Conn().RemotePeer(), limit.ClientKey(s.Remote(stream.Conn()))
	err := s.streams.read(stream, nil, handlers{want: func(w want) { s.addWant(id, client, w) }})
	if err != nil {
		s.Log.Debug("Bitswap: stream ended", "peer", id, "cause", err)
	}
}

// A wantQueue is the queue of a peer's unanswered wants. It exists as long as its goroutine, which
// answers them.
type wantQueue struct {
	client string     // address, as limit.ClientKey names it
	wants  *list.List // of want, oldest first
	byCID  map[cid.Cid]*list.Element
}

func newWantQueue(client string) *wantQueue {
	return &wantQueue{client, list.New(), map[cid.Cid]*list.Element{}}
}

// addWant queues a want, or removes one that is cancelled.
func (s *Server) addWant(id peer.ID, client string, w want) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[id]
	switch {
	case s.closed, q == nil && (w.cancel || len(s.queues) >= maxPeers || s.perClient[client] >= maxPerClient):
		return
	case q == nil:
		q = newWantQueue(client)
		s.queues[id] = q
		s.perClient[client]++
		s.tasks.Go(func() { s.answer(id, q) })
	}
	entry := q.byCID[w.name]
	switch {
	case w.cancel && entry != nil:
		q.wants.Remove(entry)
		delete(q.byCID, w.name)
	case w.cancel:
	case entry != nil && entry.Value.(want).have:
		entry.Value = w // the new want may ask for the block
	case entry == nil && len(q.byCID) < maxWants:
		q.byCID[w.name] = q.wants.PushBack(w)
	}
}

// nextWant removes and returns the oldest want of a queue. It drops the queue if that is empty, unless
// a message is still to be sent.
func (s *Server) nextWant(id peer.ID, q *wantQueue, unsent bool) (want, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if entry := q.wants.Front(); entry != nil {
		w := q.wants.Remove(entry).(want)
		delete(q.byCID, w.name)
		return w, true
	}
	if !unsent {
		s.removeQueue(id, q)
	}
	return want{}, false
}

// removeQueue drops the queue of a peer. The caller holds the lock.
func (s *Server) removeQueue(id peer.ID, q *wantQueue) {
	delete(s.queues, id)
	if s.perClient[q.client]--; s.perClient[q.client] == 0 {
		delete(s.perClient, q.client)
	}
}

// unprotect ends the protection of a connection, unless the peer has new wants.
func (s *Server) unprotect(id peer.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queues[id] == nil {
		s.host.ConnManager().Unprotect(id, protectTag)
	}
}

// answer sends messages until the queue is empty or sending fails.
func (s *Server) answer(id peer.ID, q *wantQueue) {
	out := &sender{host: s.host, id: id}
	defer out.close()
	s.host.ConnManager().Protect(id, protectTag)
	defer s.unprotect(id)
	for {
		message, blocks := s.message(id, q)
		if message == nil {
			return
		}
		if err := s.send(out, q.client, message, blocks); err != nil {
			s.mu.Lock()
			s.removeQueue(id, q)
			s.mu.Unlock()
			s.Log.Debug("Bitswap: sending failed", "peer", id, "cause", err)
			return
		}
	}
}

func (s *Server) send(out *sender, client string, message []byte, blocks int) error {
	if blocks == 0 {
		return out.send(s.ctx, message)
	}
	err := s.Throttle(s.ctx, client, blocks)
	if err == nil {
		err = out.send(s.ctx, message)
	}
	if err == nil {
		s.Sent(int64(blocks))
	}
	return err
}

// message builds a message of the next answers, of messageSize bytes or a block more. It also returns
// the bytes of the blocks in it. The message is nil if the queue is empty.
func (s *Server) message(id peer.ID, q *wantQueue) (message []byte, blocks int) {
	for len(message) < messageSize {
		w, ok := s.nextWant(id, q, len(message) > 0)
		if !ok || s.ctx.Err() != nil {
			break
		}
		data, there, err := s.lookUp(w)
		switch {
		case err != nil:
			s.Fault(err)
		case there && w.have, !there && w.dontHave:
			message = appendPresence(message, w.name, there)
		case there:
			message = appendBlock(message, w.name, data)
			blocks += len(data)
		}
	}
	return message, blocks
}

// lookUp looks up the block of a want, or reads it if the want asks for it.
func (s *Server) lookUp(w want) (data []byte, there bool, err error) {
	if w.have {
		there, err = s.Store.Has(s.ctx, w.name)
		return nil, there, err
	}
	data, err = cas.Get(s.ctx, s.Store, w.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return data, err == nil, err
}
