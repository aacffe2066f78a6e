package network

import (
	"fmt"
	"os"
	"path/filepath"
)

// setIPv6 switches IPv6 on or off on a port, with what its plan accepts of router advertisements. It
// must be called before the port is brought up: the kernel sends IPv6 packets at once.
func (p *port) setIPv6(on bool) error {
	set := func(family, name, value string) error {
		return os.WriteFile(filepath.Join("/proc/sys/net", family, "conf", p.name, name), []byte(value), 0o644)
	}
	// The kernel passes over routes through a port without a link, and takes answers from any port.
	_ = set("ipv4", "ignore_routes_with_linkdown", "1")
	_ = set("ipv4", "rp_filter", "2")
	if !on {
		if err := set("ipv6", "disable_ipv6", "1"); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("IPv6 cannot be switched off: %w", err)
		}
		return nil
	}
	_ = set("ipv6", "ignore_routes_with_linkdown", "1")
	_ = set("ipv6", "router_solicitation_max_interval", "15")
	_ = set("ipv6", "accept_ra", flag(p.plan.ra))
	_ = set("ipv6", "autoconf", flag(p.plan.autoconf))
	if err := set("ipv6", "disable_ipv6", "0"); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("IPv6 cannot be switched on: %w", err)
	}
	return nil
}

func flag(on bool) string {
	if on {
		return "1"
	}
	return "0"
}
