package publisher

import "github.com/phaseboot/phaseboot/internal/bitswap"

// serveBitswap answers stock IPFS nodes, which fetch and pin a release by Bitswap. The same
// rates hold as for the gateway.
func (s *server) serveBitswap() error {
	return s.node.ServeBitswap(bitswap.Options{Store: s.source, Throttle: s.rates.Wait, Sent: s.meter.sentByBitswap, Fault: s.fault, Log: s.Log})
}

func (m *meter) sentByBitswap(n int64) {
	m.bytes.WithLabelValues("bitswap", "block").Add(float64(n))
	m.sent.Add(n)
}
