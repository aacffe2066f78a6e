package signer

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/phaseboot/phaseboot/internal/refusal"
)

// StaticNetworkName is the name of the file that StaticNetwork makes.
const StaticNetworkName = "50-phase-static.network"

// StaticNetwork returns a file of systemd-networkd for ADDRESS/BITS[,GATEWAY[,DNS…]], which applies to every Ethernet
// card. Text of another form wraps fs.ErrInvalid.
func StaticNetwork(text string) (string, error) {
	parts := strings.Split(text, ",")
	prefix, err := netip.ParsePrefix(parts[0])
	if err != nil {
		return "", refusal.Invalid("%.80q is not ADDRESS/BITS; write it like static,192.0.2.7/24,192.0.2.1", parts[0])
	}
	var b strings.Builder
	fmt.Fprintf(&b, "[Match]\nType=ether\nKind=!*\n\n[Network]\nAddress=%s\n", prefix)
	for i, part := range parts[1:] {
		addr, err := netip.ParseAddr(part)
		if err != nil || addr.Zone() != "" {
			return "", refusal.Invalid("%.80q is not an address", part)
		}
		if i == 0 {
			fmt.Fprintf(&b, "Gateway=%s\n", addr)
		} else {
			fmt.Fprintf(&b, "DNS=%s\n", addr)
		}
	}
	return b.String(), nil
}
