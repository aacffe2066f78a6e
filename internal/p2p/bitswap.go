package p2p

import (
	"context"
	"fmt"
	"net/http"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bitswap"
)

// ServeBitswap answers the wants of stock IPFS nodes until Close. The same Node cannot call
// Bitswap, whose client needs the same protocol handler.
func (n *Node) ServeBitswap(o bitswap.Options) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return fmt.Errorf("Bitswap: %w", http.ErrServerClosed)
	}
	o.Remote = remoteAddr
	n.after = append(n.after, bitswap.Serve(n.host, o))
	return nil
}

// ErrNoSource means that a peer was reached but serves no blocks over a protocol that we speak. A
// peer that is only a DHT node is an example.
var ErrNoSource = fmt.Errorf("serves neither HTTP over streams nor Bitswap: %w", cas.ErrUnreachable)

// Bitswap connects to a peer and returns a Source that requests its blocks by Bitswap. If the
// connection is lost, the next block connects again, to the addresses of info only. The error
// is ErrNoSource if the peer does not speak Bitswap; every error wraps cas.ErrUnreachable.
func (n *Node) Bitswap(ctx context.Context, info peer.AddrInfo) (cas.Source, error) {
	if err := n.connect(ctx, info); err != nil {
		return nil, err
	}
	if !n.speaks(ctx, info.ID, bitswap.Protocol) {
		return nil, fmt.Errorf("peer %s: %w", info.ID, ErrNoSource)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, fmt.Errorf("peer %s: %w", info.ID, cas.ErrUnreachable)
	}
	if n.bitswapClient == nil {
		n.bitswapClient = bitswap.NewClient(n.host)
	}
	return n.bitswapClient.Peer(info.ID, func(ctx context.Context) error { return n.connect(ctx, info) }), nil
}
