package network

import (
	"net"
	"net/netip"
	"testing"
)

func FuzzARP(f *testing.F) {
	a := netip.MustParseAddr("169.254.1.2")
	m := arpMessage{op: arpRequest, senderMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, sender: a, target: a.Next()}
	f.Add(append(m.bytes(), make([]byte, 18)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, ok := parseARP(data)
		if !ok {
			return
		}
		again, ok := parseARP(m.bytes())
		if !ok || again.sender != m.sender || again.target != m.target || again.op != m.op || again.senderMAC.String() != m.senderMAC.String() {
			t.Errorf("%+v, %+v", m, again)
		}
	})
}
