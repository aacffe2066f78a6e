package network

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/bootargs"
)

// miimon is how often the kernel looks for the link of a bond's ports, in milliseconds.
const miimon = 100

// made reports whether an interface is a VLAN or a bond of the command line.
func (n *Network) made(name string) bool {
	return slices.ContainsFunc(n.VLANs, func(v bootargs.VLAN) bool { return v.Name == name }) ||
		slices.ContainsFunc(n.Bonds, func(b bootargs.Bond) bool { return b.Name == name })
}

// bondOf returns the bond that has a port as a member, "" for none.
func (n *Network) bondOf(p *port) string {
	if p.kind != "ethernet" {
		return ""
	}
	for _, b := range n.Bonds {
		if slices.ContainsFunc(b.Members, p.is) {
			return b.Name
		}
	}
	return ""
}

// removeDevices removes the VLANs and bonds of an earlier attempt, and the bond that the kernel makes
// when the module is loaded.
func (n *Network) removeDevices() {
	if len(n.Bonds) > 0 {
		n.load("bonding")
	}
	if len(n.VLANs) > 0 {
		n.load("8021q")
	}
	links, err := netlink.LinkList()
	if err != nil {
		return
	}
	for _, l := range links {
		if t := l.Type(); n.made(l.Attrs().Name) && (t == "vlan" || t == "bond") {
			_ = netlink.LinkDel(l)
		}
	}
}

func (n *Network) load(module string) {
	if n.LoadModule == nil {
		return
	}
	if err := n.LoadModule(module); err != nil {
		n.Report("network: %v", err)
	}
}

// addBonds makes the bonds. Their ports become members when they appear.
func (n *Network) addBonds() {
	for _, b := range n.Bonds {
		if err := addBond(b); err != nil {
			n.Report("network: bond %s: %v", b.Name, deviceError(err, "bonding"))
		}
	}
}

func addBond(b bootargs.Bond) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = b.Name, b.MTU
	bond := netlink.NewLinkBond(attrs)
	bond.Mode, bond.Miimon = netlink.StringToBondMode(b.Mode), miimon
	for name, value := range b.Options {
		number, err := strconv.Atoi(value)
		switch name {
		case "miimon":
			bond.Miimon = number
		case "updelay":
			bond.UpDelay = number
		case "downdelay":
			bond.DownDelay = number
		case "lacp_rate":
			if bond.LacpRate = netlink.BondLacpRate(number); err != nil {
				bond.LacpRate = netlink.StringToBondLacpRate(value)
			}
		case "xmit_hash_policy":
			bond.XmitHashPolicy = netlink.StringToBondXmitHashPolicy(value)
		}
	}
	return netlink.LinkAdd(bond)
}

// deviceError explains why an interface of a kind cannot be made.
func deviceError(err error, module string) error {
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w: the kernel has no module %s; build the image again with this version", err, module)
	}
	return err
}

// enslave makes a port a member of its bond. The kernel brings it up.
func (n *Network) enslave(p *port) error {
	bond, err := netlink.LinkByName(p.bond)
	if err != nil {
		return fmt.Errorf("bond %s: %w", p.bond, err)
	}
	if err := errors.Join(netlink.LinkSetDown(p.link), netlink.LinkSetMaster(p.link, bond)); err != nil {
		return fmt.Errorf("bond %s: %w", p.bond, err)
	}
	for _, b := range n.Bonds {
		if b.Name == p.bond && b.Options["primary"] != "" && p.is(b.Options["primary"]) {
			change := netlink.NewLinkBond(*bond.Attrs())
			change.Primary = p.index
			if err := netlink.LinkModify(change); err != nil {
				return fmt.Errorf("bond %s: primary %s: %w", p.bond, p.name, err)
			}
		}
	}
	return netlink.LinkSetUp(p.link)
}

// addVLANs makes the VLANs on a port.
func (n *Network) addVLANs(p *port) {
	for _, v := range n.VLANs {
		if !p.is(v.Parent) {
			continue
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = v.Name, p.index
		err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: v.ID, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
		if err != nil && !errors.Is(err, unix.EEXIST) { // another port has the same driver
			n.Report("network: VLAN %s: %v", v.Name, deviceError(err, "8021q"))
		}
	}
}

// missingParents names the ports of VLANs and bonds that do not exist.
func (n *Network) missingParents() (causes []string) {
	exists := func(selector string) bool {
		for _, p := range n.ports {
			if p.is(selector) {
				return true
			}
		}
		return false
	}
	for _, v := range n.VLANs {
		if !exists(v.Parent) {
			causes = append(causes, fmt.Sprintf("%s: its port %s is missing", v.Name, v.Parent))
		}
	}
	for _, b := range n.Bonds {
		for _, m := range b.Members {
			if !exists(m) {
				causes = append(causes, fmt.Sprintf("%s: its port %s is missing", b.Name, m))
			}
		}
	}
	return causes
}
