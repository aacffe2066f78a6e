package p2p

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/ipfs/boxo/ipns"
	"github.com/ipfs/go-cid"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p-kad-dht/records"
	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/phaseboot/phaseboot/cas"
)

// ErrNoDHT means that the Node was started without a DHT.
var ErrNoDHT = errors.New("DHT: off")

const (
	maxProviders      = 32               // peers that FindProviders delivers
	providerTTL       = time.Hour        // of a provider record in a private DHT; providers renew it sooner
	newerRecordWait   = 2 * time.Second  // how long GetIPNS waits for a newer record than the first
	bootstrapPause    = time.Second      // first pause between attempts to join the DHT
	bootstrapMaxPause = 30 * time.Second // longest pause, and the pause between checks of the routing table
	retryPause        = 50 * time.Millisecond
	retryMaxPause     = 2 * time.Second
)

func (n *Node) startDHT(opts Options) error {
	if opts.DHT == DHTOff || opts.DHT == "" {
		return nil
	}
	mode, known := map[string]dht.ModeOpt{DHTClient: dht.ModeClient, DHTServer: dht.ModeServer}[opts.DHT]
	if !known {
		return fmt.Errorf("DHT %q: unknown; use %s, %s or %s: %w", opts.DHT, DHTOff, DHTClient, DHTServer, fs.ErrInvalid)
	}
	if len(opts.Prefix) < 2 || opts.Prefix[0] != '/' {
		return fmt.Errorf("DHT prefix %.80q: must start with a slash, like /phaseboot/NAME: %w", opts.Prefix, fs.ErrInvalid)
	}
	dhtOpts := []dht.Option{
		dht.Mode(mode), dht.ProtocolPrefix(protocol.ID(opts.Prefix)),
		dht.RoutingTablePeerDiversityFilter(newDiversityFilter(n.host, opts.Prefix)),
	}
	if opts.Prefix == PublicPrefix {
		dhtOpts = append(dhtOpts, dht.AddressFilter(publicOnly))
	} else {
		dhtOpts = append(dhtOpts, dht.ProviderManagerOpts(records.ProvideValidity(providerTTL), records.CleanupInterval(providerTTL/4)))
	}
	if opts.Prefix != PublicPrefix && mode == dht.ModeClient {
		dhtOpts = append(dhtOpts, dht.Validator(record.NamespacedValidator{"ipns": anyDateValidator{}}))
	}
	var err error
	if n.dht, err = dht.New(n.host, dhtOpts...); err != nil {
		return fmt.Errorf("DHT: %w", err)
	}
	if len(opts.Bootstrap) > 0 {
		n.run(func() { n.bootstrap(opts.Bootstrap) })
	}
	return nil
}

func publicOnly(addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	return multiaddr.FilterAddrs(addrs, manet.IsPublicAddr)
}

// bootstrap connects to the bootstrap peers whenever the routing table is empty: a bootstrap node may
// start after this node, or restart.
func (n *Node) bootstrap(peers []peer.AddrInfo) {
	for pause := bootstrapPause; ; {
		if n.dht.RoutingTable().Size() > 0 {
			pause = bootstrapMaxPause
		} else {
			n.dialAll(peers)
		}
		select {
		case <-time.After(pause):
		case <-n.ctx.Done():
			return
		}
		if n.dht.RoutingTable().Size() == 0 {
			pause = min(2*pause, bootstrapMaxPause)
		}
	}
}

// dialAll dials all peers at the same time, so that a stalled peer does not delay the others.
func (n *Node) dialAll(peers []peer.AddrInfo) {
	ctx, cancel := context.WithTimeout(n.ctx, dialTimeout)
	defer cancel()
	var dials sync.WaitGroup
	for _, p := range peers {
		dials.Go(func() {
			if err := n.host.Connect(ctx, p); err != nil {
				n.log.Debug("DHT: bootstrap peer not reached", "peer", p.ID, "cause", err)
			}
		})
	}
	dials.Wait()
}

// ProvideLocal makes a server Node answer that it provides c, without announcing it to other nodes.
func (n *Node) ProvideLocal(ctx context.Context, c cid.Cid) error {
	if n.dht == nil {
		return ErrNoDHT
	}
	return n.dht.Provide(ctx, c, false)
}

// InDHT reports whether the Node takes part in a DHT.
func (n *Node) InDHT() bool { return n.dht != nil }

// Provide announces in the DHT that this Node has c. A server Node stores the record itself at once.
// Provide returns when the nodes closest to c have it, and tries again while the routing table is
// empty, until ctx ends.
func (n *Node) Provide(ctx context.Context, c cid.Cid) error {
	if n.dht == nil {
		return ErrNoDHT
	}
	return n.retry(ctx, func() error { return n.dht.Provide(ctx, c, true) })
}

// PutIPNS stores a record, made by NewRecord, under its name. It waits and retries as Provide does.
func (n *Node) PutIPNS(ctx context.Context, name string, record []byte) error {
	key, err := n.routingKey(name)
	if err != nil {
		return err
	}
	return n.retry(ctx, func() error { return n.dht.PutValue(ctx, key, record) })
}

// routingKey returns the DHT key of an IPNS name.
func (n *Node) routingKey(name string) (string, error) {
	if n.dht == nil {
		return "", ErrNoDHT
	}
	key, err := ipns.NameFromString(name)
	if err != nil {
		return "", fmt.Errorf("IPNS name %.80q: %w", name, err)
	}
	return string(key.RoutingKey()), nil
}

// retry repeats try until the routing table had a peer before the call, and returns that call's
// error.
func (n *Node) retry(ctx context.Context, try func() error) error {
	ctx, cancel := n.withNode(ctx)
	defer cancel()
	pause := retryPause
	for {
		peers := n.dht.RoutingTable().Size()
		err := try()
		if peers > 0 {
			return err
		}
		if !n.pause(ctx, &pause) {
			return fmt.Errorf("DHT: no peer yet: %w", cas.ErrUnreachable)
		}
	}
}

// waitPeer waits until the routing table has a peer.
func (n *Node) waitPeer(ctx context.Context) error {
	pause := retryPause
	for n.dht.RoutingTable().Size() == 0 {
		if !n.pause(ctx, &pause) {
			return fmt.Errorf("DHT: no peer answered: %w", cas.ErrUnreachable)
		}
	}
	return nil
}

// pause waits and doubles the next pause. It returns false if ctx has ended.
func (n *Node) pause(ctx context.Context, d *time.Duration) bool {
	next := time.After(*d)
	*d = min(2**d, retryMaxPause)
	select {
	case <-next:
		return true
	case <-ctx.Done():
		return false
	}
}

// withNode returns a context that also ends when the Node closes.
func (n *Node) withNode(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(n.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// FindProviders searches the DHT for providers of c and delivers them as they are found, at most
// 32. It waits for a DHT peer first. The channel closes when the search or ctx ends.
func (n *Node) FindProviders(ctx context.Context, c cid.Cid) <-chan peer.AddrInfo {
	return n.providers(ctx, c, maxProviders)
}

func (n *Node) providers(ctx context.Context, c cid.Cid, limit int) <-chan peer.AddrInfo {
	out := make(chan peer.AddrInfo)
	if n.dht == nil {
		close(out)
		return out
	}
	search := func() {
		defer close(out)
		ctx, cancel := n.withNode(ctx)
		defer cancel()
		if n.waitPeer(ctx) != nil {
			return
		}
		for p := range n.dht.FindProvidersAsync(ctx, c, limit) {
			if p.ID == n.host.ID() {
				continue
			}
			select {
			case out <- p:
			case <-ctx.Done():
				return
			}
		}
	}
	if !n.run(search) {
		close(out)
	}
	return out
}

// GetIPNS returns the newest valid record of a name that the DHT returned within two seconds after
// the first one. The error wraps fs.ErrNotExist if the peers that were asked have none, and
// cas.ErrUnreachable if no peer answered before ctx ended.
func (n *Node) GetIPNS(ctx context.Context, name string) ([]byte, error) {
	key, err := n.routingKey(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := n.withNode(ctx)
	defer cancel()
	if err := n.waitPeer(ctx); err != nil {
		return nil, err
	}
	ctx = network.WithDialPeerTimeout(ctx, dialTimeout)
	values, err := n.dht.SearchValue(ctx, key, dht.Quorum(0))
	if err != nil {
		return nil, fmt.Errorf("IPNS %s: %w (%w)", name, err, cas.ErrUnreachable)
	}
	best := newest(ctx, values)
	switch {
	case best != nil:
		return best, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("IPNS %s: no answer from the DHT in time: %w", name, cas.ErrUnreachable)
	}
	return nil, fmt.Errorf("IPNS %s: no record in the DHT: %w", name, fs.ErrNotExist)
}

// newest returns the last value of a search; each value is newer than the one before.
func newest(ctx context.Context, values <-chan []byte) []byte {
	var best []byte
	var enough <-chan time.Time
	for {
		select {
		case v, ok := <-values:
			if !ok {
				return best
			}
			best = v
			if enough == nil {
				enough = time.After(newerRecordWait)
			}
		case <-enough:
			return best
		case <-ctx.Done():
			return best
		}
	}
}
