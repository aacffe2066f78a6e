package p2p

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"syscall"

	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/phaseboot/phaseboot/internal/bitswap"
)

// How a Node takes part in the DHT.
const (
	DHTOff    = "off"
	DHTClient = "client" // sends queries, answers none
	DHTServer = "server" // also answers queries and stores records
)

// PublicPrefix is the DHT protocol prefix of the public IPFS network.
const PublicPrefix = "/ipfs"

// Options say what a Node does. The zero value only dials.
type Options struct {
	Identity   crypto.PrivKey        // nil: a new one for this Node
	Listen     []multiaddr.Multiaddr // must be free; one of several is skipped if its address family is missing
	Announce   []multiaddr.Multiaddr // addresses announced in addition to those of the interfaces
	Transports []Transport           // in addition to TCP, for instance quic.Transport
	Services   []Service             // for instance nat.AutoRelay
	Router     *Router               // nat.Router(): map ports on the router, and punch holes
	DHT        string                // DHTOff (also ""), DHTClient, DHTServer
	Prefix     string                // DHT protocol prefix, "/name…"
	Bootstrap  []peer.AddrInfo       // bootstrap peers of the DHT
	MDNS       bool                  // announce and browse on the local network
	HTTP       []multiaddr.Multiaddr // …/tcp/PORT/http of the plain HTTP listeners, announced through identify
	Log        *slog.Logger          // nil: no log

	// Connections that may be open at once, in all and from one IP (an IPv6 /56). 0 in all is
	// 64 for a Node that only dials and 256 for a Node that listens; 0 from one IP is 64.
	MaxConns, MaxConnsPerIP int
}

// A Node is a running libp2p host with what Options asked for.
type Node struct {
	host          *basichost.BasicHost
	before, after Closers      // closed before and after the host
	dht           *dht.IpfsDHT // nil when off
	log           *slog.Logger
	finder        *finder

	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu            sync.Mutex
	bitswapClient *bitswap.Client // nil until a peer is asked by Bitswap
	servers       []*http.Server  // also in before
	transports    []*http.Transport
	closed        bool
}

// New starts a Node. It returns once every Listen address is bound; a taken port is an error that
// names the address. The caller must close the Node.
func New(ctx context.Context, opts Options) (_ *Node, err error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Identity == nil {
		if opts.Identity, _, err = crypto.GenerateEd25519Key(rand.Reader); err != nil {
			return nil, fmt.Errorf("peer identity: %w", err)
		}
	}
	n := &Node{log: opts.Log, finder: newFinder()}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	var up transport.Upgrader
	if n.host, up, n.after, err = newHost(opts); err != nil {
		return nil, err
	}
	for _, a := range opts.Listen {
		err := n.listen(a, opts.Router != nil)
		if caused(err, syscall.EAFNOSUPPORT) && len(opts.Listen) > 1 {
			n.log.Info("not listening: this machine has no such address family", "address", a)
		} else if err != nil {
			return nil, listenError("listen "+a.String(), "/ip4/0.0.0.0/…", err)
		}
	}
	if err := n.startDHT(opts); err != nil {
		return nil, err
	}
	if err := n.startServices(opts, up); err != nil {
		return nil, err
	}
	if opts.MDNS {
		n.run(n.runMDNS)
	}
	return n, ctx.Err()
}

// listen binds an address. If ports are shared (SO_REUSEPORT), it first binds without sharing, as a
// taken port would not be an error otherwise.
func (n *Node) listen(a multiaddr.Multiaddr, shared bool) error {
	if _, err := a.ValueForProtocol(multiaddr.P_TCP); shared && err == nil {
		l, err := manet.Listen(a)
		if err != nil {
			return err
		}
		l.Close()
	}
	return n.host.Network().Listen(a)
}

func (n *Node) startServices(opts Options, up transport.Upgrader) error {
	parts := Parts{
		Host: n.host, Upgrader: up, Log: n.log,
		Peers: func() []peer.AddrInfo {
			return slices.Concat(opts.Bootstrap, n.routingPeers())
		},
		Dialer: func() (network.Network, error) { return anonymousSwarm(opts) },
	}
	for _, start := range opts.Services {
		c, err := start(parts)
		if err != nil {
			return err
		}
		n.before = append(n.before, c)
	}
	return nil
}

// routingPeers returns the peers of the routing table with their addresses.
func (n *Node) routingPeers() (out []peer.AddrInfo) {
	if n.dht == nil {
		return nil
	}
	for _, id := range n.dht.RoutingTable().ListPeers() {
		out = append(out, n.host.Peerstore().PeerInfo(id))
	}
	return out
}

// ID returns the peer ID of the Node.
func (n *Node) ID() peer.ID { return n.host.ID() }

// Addrs returns the addresses at which peers can dial the Node, each with its /p2p/ID, loopback
// last.
func (n *Node) Addrs() []multiaddr.Multiaddr {
	dialable := slices.DeleteFunc(n.host.Addrs(), isHTTP)
	slices.SortStableFunc(dialable, func(a, b multiaddr.Multiaddr) int { return rank(a) - rank(b) })
	full, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: n.host.ID(), Addrs: dialable})
	if err != nil {
		return nil
	}
	return full
}

// Peers returns the number of connected peers.
func (n *Node) Peers() int { return len(n.host.Network().Peers()) }

// DHTPeers returns the number of peers in the routing table of the DHT.
func (n *Node) DHTPeers() int {
	if n.dht == nil {
		return 0
	}
	return n.dht.RoutingTable().Size()
}

// run starts a task that Close waits for. It returns false if the Node is closed.
func (n *Node) run(task func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.tasks.Go(task)
	return true
}

// Close stops everything that the Node has started and waits for it.
func (n *Node) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	n.mu.Unlock()

	n.cancel()
	var errs []error
	if n.host != nil { // first, as ending a protocol is sent to all peers, and a lost peer would delay that by five seconds
		errs = append(errs, n.host.Network().Close())
	}
	for _, t := range n.transports {
		t.CloseIdleConnections()
	}
	errs = append(errs, n.before.Close())
	if n.dht != nil {
		errs = append(errs, n.dht.Close())
	}
	if n.host != nil {
		errs = append(errs, n.host.Close())
	}
	errs = append(errs, n.after.Close())
	n.tasks.Wait()
	return errors.Join(errs...)
}
