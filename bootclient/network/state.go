package network

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A State is the network as it is, for the target. It is plain data.
type State struct {
	Interfaces []Interface  `json:"interfaces"`
	Servers    []netip.Addr `json:"servers"` // DNS, in the order of use
}

// An Interface is one interface that is used, also the ports of VLANs and bonds.
type Interface struct {
	Name         string `json:"name"`
	Kind         string `json:"kind"` // ethernet, vlan, bond
	Driver       string `json:"driver"`
	MAC          string `json:"mac"`
	PermanentMAC string `json:"permanent_mac"` // differs from MAC in a private mode
	Link         bool   `json:"link"`
	MTU          int    `json:"mtu"`

	VLAN     int    `json:"vlan,omitempty"`      // ID of a VLAN
	Parent   string `json:"parent,omitempty"`    // port of a VLAN
	Bond     string `json:"bond,omitempty"`      // bond of which it is a member
	BondMode string `json:"bond_mode,omitempty"` // of a bond
	Primary  bool   `json:"primary,omitempty"`   // the preferred member of its bond

	BondOptions map[string]string `json:"bond_options,omitempty"` // of a bond, as in phase.bond=, without primary

	Addresses []Address    `json:"addresses,omitempty"`
	Routes    []Route      `json:"routes,omitempty"`
	Servers   []netip.Addr `json:"servers,omitempty"`    // DNS
	NoSLAAC   bool         `json:"no_slaac,omitempty"`   // addresses of DHCPv6 only, as phase.ip=dhcp6 says
	Asks4     bool         `json:"asks_dhcp4,omitempty"` // a DHCPv4 server is asked, and none has answered
	Lease4    *Lease       `json:"lease4,omitempty"`
	Lease6    *Lease       `json:"lease6,omitempty"`
}

// An Address is an address of an interface. The IPv6 link-local address is left out.
type Address struct {
	Prefix netip.Prefix `json:"prefix"`
	From   string       `json:"from"` // static, dhcp4, dhcp6, ra, link-local
	Until  time.Time    `json:"until,omitzero"`
}

// A Route is a route of an interface beyond its own subnets.
type Route struct {
	To     netip.Prefix `json:"to"`
	Via    netip.Addr   `json:"via,omitzero"` // invalid for a destination on the link
	Metric int          `json:"metric"`
	OnLink bool         `json:"on_link"`
}

// A Lease is what a DHCP server said beyond addresses and routes.
type Lease struct {
	Server   string       `json:"server,omitempty"` // of DHCPv4
	Address  netip.Prefix `json:"address,omitzero"`
	Router   netip.Addr   `json:"router,omitzero"` // the first one
	Domain   string       `json:"domain,omitempty"`
	Hostname string       `json:"hostname,omitempty"`
	NTP      []netip.Addr `json:"ntp,omitempty"`
	MTU      int          `json:"mtu,omitempty"`
	Until    time.Time    `json:"until,omitzero"` // zero for ever
}

// State returns the network as it is.
func (n *Network) State() (s State, err error) {
	n.ask(func() { s, err = n.state() })
	return s, err
}

func (n *Network) state() (State, error) {
	s := State{Servers: n.servers()}
	for _, p := range n.sorted() {
		i, err := n.describe(p)
		if err != nil {
			return s, fmt.Errorf("interface %s: %w", p.name, err)
		}
		s.Interfaces = append(s.Interfaces, i)
	}
	return s, nil
}

func (n *Network) describe(p *port) (Interface, error) {
	now, err := netlink.LinkByIndex(p.index)
	if err != nil {
		return Interface{}, err
	}
	a := now.Attrs()
	i := Interface{
		Name: p.name, Kind: p.kind, Driver: p.driver, MAC: a.HardwareAddr.String(), PermanentMAC: p.permanent.String(),
		Link: p.carrier, MTU: a.MTU, Bond: p.bond, Servers: n.portServers(p), Asks4: p.plan.dhcp4 && p.lease == nil,
		NoSLAAC: p.plan.ra && !p.plan.autoconf,
	}
	switch l := now.(type) {
	case *netlink.Vlan:
		i.VLAN = l.VlanId
		if parent := n.ports[a.ParentIndex]; parent != nil {
			i.Parent = parent.name
		}
	case *netlink.Bond:
		i.BondMode = l.Mode.String()
	}
	for _, b := range n.Bonds {
		if b.Name == p.name {
			i.BondOptions = maps.Clone(b.Options)
			delete(i.BondOptions, "primary")
		}
		if primary := b.Options["primary"]; b.Name == p.bond && primary != "" {
			i.Primary = p.is(primary)
		}
	}
	if l := p.lease; l != nil {
		prefix, _ := prefixOf(l.addr)
		i.Lease4 = &Lease{
			Server: l.from.String(), Address: prefix, Router: l.router, Domain: l.domain, Hostname: l.hostname,
			NTP: slices.Clone(l.ntp), MTU: l.mtu, Until: l.until,
		}
	}
	if l := p.lease6; l != nil {
		i.Lease6 = &Lease{Domain: l.domain, Until: l.until}
		if l.addr.IsValid() {
			i.Lease6.Address = netip.PrefixFrom(l.addr, 128)
		}
	}
	if i.Addresses, err = p.addresses(); err != nil {
		return i, err
	}
	i.Routes, err = routesOf(p.link)
	return i, err
}

// addresses returns the addresses that the kernel has.
func (p *port) addresses() (out []Address, err error) {
	list, err := netlink.AddrList(p.link, netlink.FAMILY_ALL)
	for _, a := range list {
		prefix, ok := prefixOf(a.IPNet)
		if !ok || prefix.Addr().Is6() && prefix.Addr().IsLinkLocalUnicast() || a.Flags&unix.IFA_F_DADFAILED != 0 {
			continue
		}
		at := Address{Prefix: prefix, From: "ra"}
		switch {
		case p.hasStatic(prefix):
			at.From = "static"
		case p.lease != nil && p.lease.addr.String() == a.IPNet.String():
			at.From, at.Until = "dhcp4", p.lease.until
		case p.lease6 != nil && p.lease6.addr == prefix.Addr():
			at.From, at.Until = "dhcp6", p.lease6.until
		case prefix.Addr() == p.linkLocal:
			at.From = "link-local"
		case a.ValidLft > 0 && uint32(a.ValidLft) != forever:
			at.Until = time.Now().Add(time.Duration(a.ValidLft) * time.Second)
		}
		out = append(out, at)
	}
	return out, err
}

// routesOf returns the routes of a link in the main table, except those that the kernel makes for
// addresses.
func routesOf(link netlink.Link) (out []Route, err error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: link.Attrs().Index}, netlink.RT_FILTER_OIF)
	for _, r := range routes {
		if r.Protocol == unix.RTPROT_KERNEL || r.Type != unix.RTN_UNICAST || r.Dst == nil {
			continue
		}
		to, ok := prefixOf(r.Dst)
		if !ok {
			continue
		}
		via, _ := netip.AddrFromSlice(r.Gw)
		out = append(out, Route{To: to, Via: via.Unmap(), Metric: r.Priority, OnLink: r.Flags&int(netlink.FLAG_ONLINK) != 0})
	}
	return out, err
}
