package bitswap

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
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
	quiet = 5 * time.Second // a peer that says nothing for so long, and is asked, has stalled
	whole = 2 * time.Minute // for one block, however busily it comes
	look  = time.Second     // between looks whether the connection is still there
)

// A Client asks peers that a host is connected to.
type Client struct {
	host      host.Host
	listeners listeners

	mu    sync.Mutex
	peers map[peer.ID]*Peer
}

// NewClient listens for the answers on a host. It takes over the protocol of the host: a
// Server on the same host would hear nothing.
func NewClient(h host.Host) *Client {
	c := &Client{host: h, peers: map[peer.ID]*Peer{}}
	h.SetStreamHandler(Protocol, c.hear)
	return c
}

// A Peer is the blocks of one peer, as a cas.Source.
type Peer struct {
	out     sender
	connect func(context.Context) error

	mu      sync.Mutex
	waiting map[cid.Cid][]chan answer
	asked   map[cid.Cid]int // wants that were sent, less what came
	heard   time.Time       // when it last sent anything
	lied    error
}

type answer struct {
	data []byte
	err  error
}

// Peer returns the Source of a peer, always the same one. connect is called before
// a want is sent and returns when there is a connection.
func (c *Client) Peer(id peer.ID, connect func(context.Context) error) *Peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peers[id]
	if p == nil {
		p = &Peer{out: sender{host: c.host, id: id}, connect: connect, waiting: map[cid.Cid][]chan answer{}, asked: map[cid.Cid]int{}}
		c.peers[id] = p
	}
	return p
}

// hear reads the answers of a peer that was asked, and nobody else's.
func (c *Client) hear(s network.Stream) {
	c.mu.Lock()
	p := c.peers[s.Conn().RemotePeer()]
	c.mu.Unlock()
	if p == nil || p.verdict() != nil {
		s.Reset()
		return
	}
	err := c.listeners.read(s, p.progress, parts{block: p.block, dontHave: p.lacks})
	if errors.Is(err, errMessage) {
		p.lie(fmt.Errorf("peer %s: %w: %w", p.out.id, err, cas.ErrCorrupt))
	}
}

// Block asks for a block and waits for it. Errors wrap fs.ErrNotExist when the peer says
// that it does not have it, cas.ErrCorrupt when it has sent what nobody asked for, and
// cas.ErrUnreachable when nothing came for 5 seconds or the connection is gone.
func (p *Peer) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if err := p.connect(ctx); err != nil {
		return nil, err
	}
	came, err := p.expect(c)
	if err != nil {
		return nil, err
	}
	if err := p.out.send(ctx, appendWant(nil, want{name: c, dontHave: true})); err != nil {
		p.giveUp(c, came)
		return nil, err
	}
	data, err := p.wait(ctx, came)
	if err == errGone {
		if p.giveUp(c, came) {
			p.out.send(context.WithoutCancel(ctx), appendWant(nil, want{name: c, cancel: true})) // as a courtesy
		}
		err = fmt.Errorf("%w: %w", cas.ErrUnreachable, cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("block %s: %w", c, err)
	}
	return data, nil
}

var (
	errGone    = errors.New("given up")
	errStalled = fmt.Errorf("nothing came for %s, or not all in %s", quiet, whole)
)

func cause(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errStalled
}

// wait returns the answer, or errGone when it is not worth waiting for.
func (p *Peer) wait(ctx context.Context, came <-chan answer) ([]byte, error) {
	began := time.Now()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case a := <-came:
			return a.data, a.err
		case <-tick.C:
			p.mu.Lock()
			last := p.heard
			p.mu.Unlock()
			if last.Before(began) {
				last = began
			}
			connected := p.out.host.Network().Connectedness(p.out.id) == network.Connected
			if !connected || time.Since(last) > quiet || time.Since(began) > whole {
				return nil, errGone
			}
		case <-ctx.Done():
			return nil, errGone
		}
	}
}

// expect returns where the answer for c will come.
func (p *Peer) expect(c cid.Cid) (chan answer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lied != nil {
		return nil, p.lied
	}
	came := make(chan answer, 1)
	p.waiting[c] = append(p.waiting[c], came)
	p.asked[c]++
	return came, nil
}

// giveUp waits no more, and reports whether nobody else does. The block may still come:
// that is no lie then.
func (p *Peer) giveUp(c cid.Cid, came chan answer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, one := range p.waiting[c] {
		if one == came {
			p.waiting[c] = append(p.waiting[c][:i], p.waiting[c][i+1:]...)
		}
	}
	if len(p.waiting[c]) > 0 {
		return false
	}
	delete(p.waiting, c)
	return true
}

func (p *Peer) progress() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = time.Now()
}

// block gives a block to those who wait for it. One that was not asked for is wrong
// bytes under a right name, or a flood.
func (p *Peer) block(prefix, data []byte) error {
	c, err := nameOf(prefix, data)
	p.mu.Lock()
	known := err == nil && p.asked[c] > 0
	if known {
		if p.asked[c]--; p.asked[c] == 0 {
			delete(p.asked, c)
		}
		p.tell(c, answer{data: data})
	}
	p.mu.Unlock()
	if known {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("block %s of %d bytes, which nobody asked for", c, len(data))
	}
	return fmt.Errorf("%w: %w", errMessage, err)
}

// lacks tells those who wait that the peer does not have a block.
func (p *Peer) lacks(c cid.Cid) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked[c] > 0 {
		if p.asked[c]--; p.asked[c] == 0 {
			delete(p.asked, c)
		}
		p.tell(c, answer{err: cas.NotFound(c)})
	}
}

// tell answers everybody who waits for c. The caller holds the lock.
func (p *Peer) tell(c cid.Cid, a answer) {
	for _, came := range p.waiting[c] {
		came <- a
	}
	delete(p.waiting, c)
}

func (p *Peer) verdict() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lied
}

// lie ends the use of a peer.
func (p *Peer) lie(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lied == nil {
		p.lied = err
	}
	for c := range p.waiting {
		p.tell(c, answer{err: p.lied})
	}
}

// nameOf computes the CID of a block from the prefix that its sender gave.
func nameOf(prefix, data []byte) (cid.Cid, error) {
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
