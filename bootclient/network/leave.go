package network

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Leave gives the leases back and removes their addresses. A private mode calls it before the jump,
// so that nothing answers for this machine afterwards.
func (n *Network) Leave() (summary string, err error) {
	n.ask(func() { summary, err = n.leave() })
	return summary, err
}

func (n *Network) leave() (string, error) {
	var errs []error
	given := 0
	for _, p := range n.sorted() {
		p.stop()
		p.stopLocal()
		if l := p.lease; l != nil {
			given++
			errs = append(errs, releaseV4(p.name, l))
			n.endLease(p)
		}
		if l := p.lease6; l != nil && l.addr.IsValid() {
			given++
			errs = append(errs, releaseV6(p.name, l), delAddr(p.link, &netlink.Addr{IPNet: netOf(netip.PrefixFrom(l.addr, 128))}))
			p.lease6 = nil
		}
	}
	if given == 0 {
		return "no lease to give back", errors.Join(errs...)
	}
	return count(given, "lease") + " given back", errors.Join(errs...)
}
