package publisher

import (
	"context"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/internal/bitswap"
)

// serveBlocks answers stock IPFS nodes, which fetch and pin a release by Bitswap, within
// the rates of everybody else.
func (s *server) serveBlocks() error {
	return s.node.ServeBlocks(bitswap.Options{Store: s.heads, Before: s.rates.Wait, Sent: s.meter.sentBlocks, Fault: s.fault, Log: s.Log})
}

// sentBlocks counts what went out by Bitswap.
func (m *meter) sentBlocks(n int64) {
	m.bytes.WithLabelValues("bitswap", "block").Add(float64(n))
	m.sent.Add(n)
}

// Has looks where Block does.
func (s *heads) Has(ctx context.Context, c cid.Cid) (bool, error) {
	s.mu.RLock()
	list := s.list
	s.mu.RUnlock()
	for _, h := range list {
		if has, err := h.blocks.Has(ctx, c); has || err != nil {
			return has, err
		}
	}
	return s.store.Has(ctx, c)
}
