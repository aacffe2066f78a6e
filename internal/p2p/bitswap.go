package p2p

import (
	"context"
	"fmt"
	"net/http"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bitswap"
)

// ServeBlocks answers the wants of stock IPFS nodes until Close. A Node that does so has
// no use for Blocks.
func (n *Node) ServeBlocks(o bitswap.Options) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return fmt.Errorf("serving blocks: %w", http.ErrServerClosed)
	}
	o.Remote = remoteOf
	n.after = append(n.after, bitswap.Serve(n.host, o))
	return nil
}

// ErrNoSource says that a peer was reached and gives no blocks in any way that we speak,
// such as a DHT node and nothing else.
var ErrNoSource = fmt.Errorf("serves neither HTTP over streams nor Bitswap: %w", cas.ErrUnreachable)

// Blocks connects to a peer and returns its blocks by Bitswap. When the connection is
// lost, the next one connects again, to the addresses of info only. A peer that does not
// speak it is refused with ErrNoSource. An error wraps cas.ErrUnreachable.
func (n *Node) Blocks(ctx context.Context, info peer.AddrInfo) (cas.Source, error) {
	if err := n.connect(ctx, info); err != nil {
		return nil, err
	}
	if spoken, err := n.host.Peerstore().SupportsProtocols(info.ID, bitswap.Protocol); err != nil || len(spoken) == 0 {
		return nil, fmt.Errorf("peer %s: %w", info.ID, ErrNoSource)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, fmt.Errorf("peer %s: %w", info.ID, cas.ErrUnreachable)
	}
	if n.blocks == nil {
		n.blocks = bitswap.NewClient(n.host)
	}
	return n.blocks.Peer(info.ID, func(ctx context.Context) error { return n.connect(ctx, info) }), nil
}
