package signer

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// StaticNetworkName is the name of the file that StaticNetwork makes.
const StaticNetworkName = "50-phase-static.network"

// StaticNetwork returns a file of systemd-networkd for ADDRESS/BITS[,GATEWAY[,DNS…]]. It applies to the card of which the
// selector has the MAC address, or to every Ethernet card. Text of another form wraps fs.ErrInvalid, and so does a selector of more
// than one machine, which would all have the address.
func StaticNetwork(selector, text string) (string, error) {
	if !manifest.IsMachine(selector) {
		return "", refusal.Invalid("all machines of %s would have this address; name one with --machine", selector)
	}
	match := "Type=ether\nKind=!*"
	if mac, ok := strings.CutPrefix(selector, "mac-"); ok {
		match = "MACAddress=" + mac[0:2] + ":" + mac[2:4] + ":" + mac[4:6] + ":" + mac[6:8] + ":" + mac[8:10] + ":" + mac[10:12]
	}
	parts := strings.Split(text, ",")
	prefix, err := netip.ParsePrefix(parts[0])
	if err != nil {
		return "", refusal.Invalid("%.80q is not ADDRESS/BITS; write it like static,192.0.2.7/24,192.0.2.1", parts[0])
	}
	var b strings.Builder
	fmt.Fprintf(&b, "[Match]\n%s\n\n[Network]\nAddress=%s\n", match, prefix)
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
