package network

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

// RandomizePorts gives every wired port that is down a random hardware address, and returns their
// number. A port that is up is an error: it may have sent packets.
func RandomizePorts() (n int, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return 0, err
	}
	for _, link := range links {
		if !Wired(link) {
			continue
		}
		if link.Attrs().Flags&net.FlagUp != 0 {
			err = errors.Join(err, fmt.Errorf("%s is up", link.Attrs().Name))
			continue
		}
		mac, macErr := newMAC()
		if macErr == nil {
			macErr = netlink.LinkSetHardwareAddr(link, mac)
		}
		if macErr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", link.Attrs().Name, macErr))
			continue
		}
		n++
	}
	return n, err
}

// newMAC returns a random unicast address with the locally-administered bit.
func newMAC() (net.HardwareAddr, error) {
	mac := make(net.HardwareAddr, 6)
	if _, err := rand.Read(mac); err != nil {
		return nil, err
	}
	mac[0] = mac[0]&^1 | 2
	return mac, nil
}
