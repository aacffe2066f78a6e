package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
)

// maxServers is how many name servers of resolv.conf a resolver uses.
const maxServers = 3

// portServers returns the name servers of a port: those of the command line replace all others.
func (n *Network) portServers(p *port) []netip.Addr {
	if len(p.plan.servers) > 0 {
		return p.plan.servers
	}
	var out []netip.Addr
	if p.lease != nil {
		out = append(out, p.lease.servers...)
	}
	if p.lease6 != nil {
		out = append(out, p.lease6.servers...)
	}
	return append(out, p.rdnssServers(time.Now())...)
}

// servers returns the name servers in the order of use: the first of each port with a link, the
// preferred port first, then the second of each.
func (n *Network) servers() []netip.Addr {
	var lists [][]netip.Addr
	for _, p := range n.sorted() {
		if p.carrier {
			lists = append(lists, n.portServers(p))
		}
	}
	return inTurn(lists)
}

// inTurn returns the first address of each list, then the second of each, each address once.
func inTurn(lists [][]netip.Addr) (out []netip.Addr) {
	longest := 0
	for _, list := range lists {
		longest = max(longest, len(list))
	}
	for i := range longest {
		for _, list := range lists {
			if i < len(list) && !slices.Contains(out, list[i]) {
				out = append(out, list[i])
			}
		}
	}
	return out
}

// writeServers writes resolv.conf. While no port has a link it keeps the last servers.
func (n *Network) writeServers() {
	list := n.servers()
	if len(list) == 0 {
		return
	}
	var b strings.Builder
	for _, s := range list[:min(len(list), maxServers)] {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	// A server that does not answer delays a look-up by 2 s, not by 5.
	b.WriteString("options timeout:2 attempts:3\n")
	if err := atomicfile.Write(n.Resolv, 0o644, []byte(b.String())); err != nil {
		n.Report("network: name servers: %v", err)
	}
}

// usableServer reports whether a name server may have an address.
func usableServer(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && !a.Is4In6() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
