package bitswap

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	mh "github.com/multiformats/go-multihash"

	"github.com/phaseboot/phaseboot/cas"
)

const (
	stallTimeout  = 5 * time.Second // without a byte from a peer with open wants: it has stalled
	blockTimeout  = 2 * time.Minute // for one block, even if bytes arrive all the time
	checkInterval = time.Second     // between checks of the connection
)

// A Client requests blocks from peers that a host is connected to.
type Client struct {
	host    host.Host
	streams streamLimiter

	mu    sync.Mutex
	peers map[peer.ID]*Peer
}

// NewClient receives the answers of peers on a host. It replaces the protocol handler of the
// host, so a Server on the same host would receive nothing.
func NewClient(h host.Host) *Client {
	c := &Client{host: h, peers: map[peer.ID]*Peer{}}
	h.SetStreamHandler(Protocol, c.handleStream)
	return c
}

// A Peer reads the blocks of one peer. It is a cas.Source.
type Peer struct {
	out     sender
	connect func(context.Context) error

	mu           sync.Mutex
	waiters      map[cid.Cid][]chan answer
	outstanding  map[cid.Cid]int // wants that were sent and not answered
	lastReceived time.Time       // of the last byte from the peer
	banned       error           // why the peer is banned, or nil
}

type answer struct {
	data []byte
	err  error
}

// Peer returns the Source of a peer, always the same one. connect is called before a want is
// sent, and returns once there is a connection.
func (c *Client) Peer(id peer.ID, connect func(context.Context) error) *Peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peers[id]
	if p == nil {
		p = &Peer{out: sender{host: c.host, id: id}, connect: connect, waiters: map[cid.Cid][]chan answer{}, outstanding: map[cid.Cid]int{}}
		c.peers[id] = p
	}
	return p
}

// handleStream reads a stream of answers. It resets the streams of banned peers and of peers from
// which nothing was requested.
func (c *Client) handleStream(s network.Stream) {
	c.mu.Lock()
	p := c.peers[s.Conn().RemotePeer()]
	c.mu.Unlock()
	if p == nil || p.banError() != nil {
		s.Reset()
		return
	}
	err := c.streams.read(s, p.received, handlers{block: p.block, dontHave: p.dontHave})
	if errors.Is(err, errMalformed) {
		p.ban(fmt.Errorf("peer %s: %w: %w", p.out.id, err, cas.ErrCorrupt))
	}
}

// Block requests a block and waits for it. Errors wrap fs.ErrNotExist if the peer answers that it
// does not have the block, cas.ErrCorrupt if the peer is banned, and cas.ErrUnreachable if
// nothing arrived for 5 seconds or the connection was lost.
func (p *Peer) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if err := p.connect(ctx); err != nil {
		return nil, err
	}
	ch, err := p.addWaiter(c)
	if err != nil {
		return nil, err
	}
	if err := p.out.send(ctx, appendWant(nil, want{name: c, dontHave: true})); err != nil {
		p.removeWaiter(c, ch)
		return nil, err
	}
	data, err := p.wait(ctx, ch)
	if errors.Is(err, cas.ErrUnreachable) && p.removeWaiter(c, ch) {
		p.out.send(context.WithoutCancel(ctx), appendWant(nil, want{name: c, cancel: true})) // so that the peer need not send it
	}
	if err != nil {
		return nil, fmt.Errorf("block %s: %w", c, err)
	}
	return data, nil
}

// wait returns the answer. The error wraps cas.ErrUnreachable if the peer has stalled, the connection
// was lost or ctx has ended.
func (p *Peer) wait(ctx context.Context, ch <-chan answer) ([]byte, error) {
	began := time.Now()
	tick := time.NewTicker(checkInterval)
	defer tick.Stop()
	for {
		select {
		case a := <-ch:
			return a.data, a.err
		case <-tick.C:
			p.mu.Lock()
			last := p.lastReceived
			p.mu.Unlock()
			if last.Before(began) {
				last = began
			}
			connected := p.out.host.Network().Connectedness(p.out.id) == network.Connected
			if !connected || time.Since(last) > stallTimeout || time.Since(began) > blockTimeout {
				return nil, fmt.Errorf("%w: no bytes for %s, or no whole block in %s", cas.ErrUnreachable, stallTimeout, blockTimeout)
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", cas.ErrUnreachable, ctx.Err())
		}
	}
}

// addWaiter registers a want for c and returns the channel of its answer.
func (p *Peer) addWaiter(c cid.Cid) (chan answer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.banned != nil {
		return nil, p.banned
	}
	ch := make(chan answer, 1)
	p.waiters[c] = append(p.waiters[c], ch)
	p.outstanding[c]++
	return ch, nil
}

// removeWaiter ends the wait for c, and reports whether no other call waits for it. The block may still
// arrive, which does not ban the peer.
func (p *Peer) removeWaiter(c cid.Cid, ch chan answer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiters[c] = slices.DeleteFunc(p.waiters[c], func(one chan answer) bool { return one == ch })
	if len(p.waiters[c]) > 0 {
		return false
	}
	delete(p.waiters, c)
	return true
}

func (p *Peer) received() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastReceived = time.Now()
}

// block delivers a block to the calls that wait for it. A block that was not requested is an error:
// its bytes are wrong, or the peer floods.
func (p *Peer) block(prefix, data []byte) error {
	c, err := cidOf(prefix, data)
	if err == nil && !p.answered(c, answer{data: data}) {
		err = fmt.Errorf("block %s of %d bytes was not requested", c, len(data))
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errMalformed, err)
	}
	return nil
}

// dontHave ends the calls that wait for a block that the peer does not have.
func (p *Peer) dontHave(c cid.Cid) { p.answered(c, answer{err: cas.NotFound(c)}) }

// answered delivers the answer to a want. It returns false if there was none.
func (p *Peer) answered(c cid.Cid, a answer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.outstanding[c] == 0 {
		return false
	}
	if p.outstanding[c]--; p.outstanding[c] == 0 {
		delete(p.outstanding, c)
	}
	p.deliver(c, a)
	return true
}

// deliver delivers an answer to all calls that wait for c. The caller holds the lock.
func (p *Peer) deliver(c cid.Cid, a answer) {
	for _, ch := range p.waiters[c] {
		ch <- a
	}
	delete(p.waiters, c)
}

func (p *Peer) banError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.banned
}

// ban bans a peer: all its waiting and later calls return err.
func (p *Peer) ban(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.banned == nil {
		p.banned = err
	}
	for c := range p.waiters {
		p.deliver(c, answer{err: p.banned})
	}
}

// cidOf computes the CID of a block from its data and the prefix in the message.
func cidOf(prefix, data []byte) (cid.Cid, error) {
	p, err := cid.PrefixFromBytes(prefix)
	if err != nil {
		return cid.Undef, fmt.Errorf("CID prefix %.80x: %w", prefix, err)
	}
	c := cid.Undef
	switch {
	case p.Version != 1 || p.MhLength != 32:
	case p.MhType == mh.BLAKE3:
		c = cas.Sum(p.Codec, data)
	case p.MhType == mh.SHA2_256:
		sum := sha256.Sum256(data)
		digest, err := mh.Encode(sum[:], mh.SHA2_256)
		if err != nil {
			return cid.Undef, err
		}
		c = cid.NewCidV1(p.Codec, digest)
	}
	return c, cas.CheckCID(c)
}
