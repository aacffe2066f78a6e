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
	maxPeers  = 128       // answered at the same time
	maxSame   = 64        // of them behind one address
	maxWants  = 2048      // kept of one peer; more are forgotten, and stock nodes ask again
	messageOf = 256 << 10 // bytes after which a message is sent
	protected = "bitswap" // tag of a connection that is in use
)

// A Store is what a Server answers for.
type Store interface {
	cas.Source
	Has(ctx context.Context, c cid.Cid) (bool, error)
}

// Options of a Server.
type Options struct {
	Store Store // its blocks are read through cas.Get
	// Remote says where a connection comes from, as "IP:port"; nil takes the peer ID.
	Remote func(network.ConnMultiaddrs) string
	// Before is called before blocks are sent to an asker, as limit.Asker names what Remote
	// says, and may hold them up; an error sends the peer away. Nil is fine.
	Before func(ctx context.Context, asker string, bytes int) error
	Sent   func(bytes int64) // of blocks, after each message; nil is fine
	Fault  func(err error)   // is told why the store did not give a block; nil is fine
	Log    *slog.Logger      // nil: silent
}

// A Server answers the wants of peers.
type Server struct {
	Options
	host      host.Host
	listeners listeners
	ctx       context.Context
	cancel    context.CancelFunc
	tasks     sync.WaitGroup

	mu     sync.Mutex
	askers map[peer.ID]*asker
	same   map[string]int // askers, by where they are
	closed bool
}

// Serve answers on a host until Close. It takes over the protocol of the host: a Client
// on the same host would hear nothing.
func Serve(h host.Host, o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{Options: o, host: h, askers: map[peer.ID]*asker{}, same: map[string]int{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	h.SetStreamHandler(Protocol, s.hear)
	return s
}

// Close stops answering.
func (s *Server) Close() error {
	s.host.RemoveStreamHandler(Protocol)
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.tasks.Wait()
	return nil
}

// hear takes the wants of one stream, message by message. That a list replaces the one
// before is passed over: what was not answered of that is a matter of seconds.
func (s *Server) hear(stream network.Stream) {
	id, from := stream.Conn().RemotePeer(), s.from(stream.Conn())
	err := s.listeners.read(stream, nil, parts{want: func(w want) { s.take(id, from, w) }})
	if err != nil {
		s.Log.Debug("Bitswap: stream ended", "peer", id, "cause", err)
	}
}

func (s *Server) from(c network.Conn) string {
	if s.Remote == nil {
		return c.RemotePeer().String()
	}
	return limit.Asker(s.Remote(c))
}

// An asker is a peer with wants that are not answered yet. It exists as long as it has
// some, and a goroutine that answers them.
type asker struct {
	from  string     // as limit.Asker names it
	queue *list.List // of want, oldest first
	at    map[cid.Cid]*list.Element
}

func newAsker(from string) *asker { return &asker{from, list.New(), map[cid.Cid]*list.Element{}} }

// take notes a want, or that one is no more.
func (s *Server) take(id peer.ID, from string, w want) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.askers[id]
	switch {
	case s.closed, a == nil && (w.cancel || len(s.askers) >= maxPeers || s.same[from] >= maxSame):
		return
	case a == nil:
		a = newAsker(from)
		s.askers[id] = a
		s.same[from]++
		s.tasks.Go(func() { s.answer(id, a) })
	}
	at := a.at[w.name]
	switch {
	case w.cancel && at != nil:
		a.queue.Remove(at)
		delete(a.at, w.name)
	case w.cancel:
	case at != nil && at.Value.(want).have:
		at.Value = w // it may want the block by now
	case at == nil && len(a.at) < maxWants:
		a.at[w.name] = a.queue.PushBack(w)
	}
}

// next returns the oldest want of an asker. One that has none and is owed nothing is
// forgotten.
func (s *Server) next(id peer.ID, a *asker, owed bool) (want, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := a.queue.Front(); at != nil {
		w := a.queue.Remove(at).(want)
		delete(a.at, w.name)
		return w, true
	}
	if !owed {
		s.drop(id, a)
	}
	return want{}, false
}

// forget drops an asker that does not take what it asked for.
func (s *Server) forget(id peer.ID, a *asker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(id, a)
}

func (s *Server) drop(id peer.ID, a *asker) {
	delete(s.askers, id)
	if s.same[a.from]--; s.same[a.from] == 0 {
		delete(s.same, a.from)
	}
}

// release gives up the protection of a connection, unless the peer asks for more already.
func (s *Server) release(id peer.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.askers[id] == nil {
		s.host.ConnManager().Unprotect(id, protected)
	}
}

// answer sends messages until there are no wants left, or the peer takes none.
func (s *Server) answer(id peer.ID, a *asker) {
	out := &sender{host: s.host, id: id}
	defer out.close()
	s.host.ConnManager().Protect(id, protected)
	defer s.release(id)
	for {
		message, blocks := s.message(id, a)
		if message == nil {
			return
		}
		if err := s.send(out, a.from, message, blocks); err != nil {
			s.forget(id, a)
			s.Log.Debug("Bitswap: answer not taken", "peer", id, "cause", err)
			return
		}
	}
}

func (s *Server) send(out *sender, from string, message []byte, blocks int) error {
	if s.Before != nil && blocks > 0 {
		if err := s.Before(s.ctx, from, blocks); err != nil {
			return err
		}
	}
	if err := out.send(s.ctx, message); err != nil {
		return err
	}
	if s.Sent != nil && blocks > 0 {
		s.Sent(int64(blocks))
	}
	return nil
}

func (s *Server) fault(err error) {
	if s.Fault != nil {
		s.Fault(err)
	}
}

// message puts the next answers together: whole blocks until they are many bytes. It
// returns nil when the asker wants nothing any more, and the bytes of the blocks in it.
func (s *Server) message(id peer.ID, a *asker) (message []byte, blocks int) {
	for len(message) < messageOf {
		w, ok := s.next(id, a, len(message) > 0)
		if !ok || s.ctx.Err() != nil {
			break
		}
		data, there, err := s.look(w)
		switch {
		case err != nil:
			s.fault(err)
		case there && w.have, !there && w.dontHave:
			message = appendPresence(message, w.name, there)
		case there:
			message = appendBlock(message, w.name, data)
			blocks += len(data)
		}
	}
	return message, blocks
}

// look reads what a want asks for.
func (s *Server) look(w want) (data []byte, there bool, err error) {
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
