package machine

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/network"
)

// Files with which the target has the network of the boot, below archiveDir and runDir.
const (
	networkDir  = "network"
	renewDir    = networkDir + "/renew"       // the files that replace those of networkDir when the lease is renewed
	renewAfter  = networkDir + "/renew-after" // how long after the start of the target, in seconds
	stateFile   = networkDir + "/state.json"  // network.State
	setupFile   = networkDir + "/setup"       // the same as lines for a shell script
	resolvHand  = networkDir + "/resolv.conf"
	hostFile    = networkDir + "/hostname" // from a DHCP server
	filePrefix  = "10-phase-"              // of the files for systemd-networkd
	leastRenew  = 30 * time.Second         // before a lease is renewed
	ethernetMTU = 1500
)

// A handedFile is a small file for the target. Its name is a path below archiveDir.
type handedFile struct {
	name string
	perm uint32
	data []byte
}

// networkFiles returns the files that give the target the addresses, routes and name servers of the
// boot, so that it needs no DHCP exchange: files for systemd-networkd, and the same for programs that
// know nothing of it. Without an address there are none.
func networkFiles(s network.State, now time.Time) []handedFile {
	used := slices.DeleteFunc(slices.Clone(s.Interfaces), func(i network.Interface) bool { return !isName(i.Name) || !handed(s, i) })
	if !slices.ContainsFunc(used, func(i network.Interface) bool { return len(i.Addresses) > 0 }) {
		return nil
	}
	state, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil // cannot happen: plain data
	}
	files := []handedFile{text(stateFile, string(state)+"\n"), text(setupFile, setupLines(used)), text(resolvHand, resolvConf(s))}
	for _, i := range used {
		name := filePrefix + i.Name
		if device := netdevText(i); device != "" {
			files = append(files, text(networkDir+"/"+name+".netdev", device))
		}
		files = append(files, text(networkDir+"/"+name+".network", networkText(s, i, false)))
		if !leaseEnd(i).IsZero() || i.Asks4 {
			files = append(files, text(renewDir+"/"+name+".network", networkText(s, i, true)))
		}
	}
	if after := renewIn(used, now); after > 0 {
		files = append(files, text(renewAfter, strconv.FormatInt(int64(after/time.Second), 10)+"\n"))
	}
	if host := hostOf(used); host != "" {
		files = append(files, text(hostFile, host+"\n"))
	}
	return files
}

func text(name, content string) handedFile { return handedFile{name, 0o644, []byte(content)} }

// handed reports whether the target needs an interface: it has an address, or another one is on it.
func handed(s network.State, i network.Interface) bool {
	return len(i.Addresses) > 0 || i.Bond != "" || slices.ContainsFunc(s.Interfaces, func(o network.Interface) bool { return o.Parent == i.Name })
}

// isName reports whether the name of an interface can be part of a file's name.
func isName(s string) bool {
	return s != "" && !strings.HasPrefix(s, ".") && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	})
}

// netdevText returns the file that makes a VLAN or a bond (systemd.netdev(5)), "" for another interface.
// A bond keeps its MAC address: networkd would make another one, and the DHCP server knows this one.
func netdevText(i network.Interface) string {
	switch i.Kind {
	case "vlan":
		return fmt.Sprintf("[NetDev]\nName=%s\nKind=vlan\n\n[VLAN]\nId=%d\n", i.Name, i.VLAN)
	case "bond":
		return fmt.Sprintf("[NetDev]\nName=%s\nKind=bond\nMACAddress=%s\n\n[Bond]\nMode=%s\n%s", i.Name, i.MAC, i.BondMode, bondText(i.BondOptions))
	}
	return ""
}

// bondOptions are the options of a bond in the order in which the kernel takes them, with those of
// systemd.netdev(5).
var bondOptions = []struct{ name, key, unit string }{
	{"miimon", "MIIMonitorSec", "ms"},
	{"updelay", "UpDelaySec", "ms"},
	{"downdelay", "DownDelaySec", "ms"},
	{"lacp_rate", "LACPTransmitRate", ""},
	{"xmit_hash_policy", "TransmitHashPolicy", ""},
}

// bondText returns the lines for the options of a bond.
func bondText(options map[string]string) string {
	var b strings.Builder
	for _, o := range bondOptions {
		value := options[o.name]
		switch {
		case value == "" && o.name == "miimon":
			value = "100"
		case o.name == "lacp_rate":
			value = cmp.Or(map[string]string{"0": "slow", "1": "fast"}[value], value)
		}
		if value != "" {
			fmt.Fprintf(&b, "%s=%s%s\n", o.key, value, o.unit)
		}
	}
	return b.String()
}

// networkText returns the file that configures an interface (systemd.network(5)). With renew set it
// also starts DHCP: networkd then takes over the address as a lease when a server confirms it.
func networkText(s network.State, i network.Interface, renew bool) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# from phase-boot: the network of the boot")
	line("[Match]\n%s\n", matchLine(i))
	if i.MTU > 0 && i.MTU != ethernetMTU {
		line("[Link]\nMTUBytes=%d\n", i.MTU)
	}
	line("[Network]")
	for _, o := range s.Interfaces {
		if o.Parent == i.Name && isName(o.Name) {
			line("VLAN=%s", o.Name)
		}
	}
	if i.Bond != "" {
		line("Bond=%s", i.Bond)
		if i.Primary {
			line("PrimarySlave=yes")
		}
		return b.String()
	}
	line("DHCP=%s", dhcpOf(i, renew))
	if len(i.Addresses) == 0 {
		line("LinkLocalAddressing=no\nIPv6AcceptRA=no")
		return b.String()
	}
	accepts := acceptsRA(i)
	line("LinkLocalAddressing=ipv6\nIPv6AcceptRA=%s", yesNo(accepts))
	for _, server := range i.Servers {
		line("DNS=%s", server.WithZone(""))
	}
	for _, l := range []*network.Lease{i.Lease4, i.Lease6} {
		if l == nil {
			continue
		}
		if l.Domain != "" {
			line("Domains=%s", l.Domain)
		}
		for _, ntp := range l.NTP {
			line("NTP=%s", ntp.WithZone(""))
		}
	}
	if accepts {
		line("\n[IPv6AcceptRA]\nDHCPv6Client=%s", dhcp6Of(i, renew))
		if i.NoSLAAC {
			line("UseAutonomousPrefix=no")
		}
	}
	if renew {
		// as the boot: the server knows this machine by its MAC address
		line("\n[DHCPv4]\nClientIdentifier=mac\nSendHostname=no\nUseHostname=no")
		line("\n[DHCPv6]\nDUIDType=link-layer\nUseHostname=no")
	}
	for _, a := range fixedAddresses(i) {
		line("\n[Address]\nAddress=%s", a.Prefix)
	}
	for _, r := range fixedRoutes(i) {
		line("\n[Route]\nDestination=%s", r.To)
		if r.Via.IsValid() {
			line("Gateway=%s\nGatewayOnLink=%s", r.Via.WithZone(""), yesNo(r.OnLink))
		} else {
			line("Scope=link")
		}
		if r.Metric > 0 {
			line("Metric=%d", r.Metric)
		}
	}
	return b.String()
}

// matchLine returns the condition for an interface. Another kernel may give a card another name, so it is
// known by its MAC address; the name of a VLAN or a bond is in its .netdev file. The address of a port
// of a bond is that of the bond, and the same as that of a VLAN on it.
func matchLine(i network.Interface) string {
	switch {
	case i.Kind != "ethernet":
		return "Name=" + i.Name
	case i.Bond != "":
		return "PermanentMACAddress=" + i.PermanentMAC
	}
	return "MACAddress=" + i.MAC + "\nKind=!vlan bond bridge macvlan"
}

func dhcpOf(i network.Interface, renew bool) string {
	if renew && (i.Lease4 != nil || i.Asks4) {
		return "ipv4"
	}
	return "no"
}

// dhcp6Of returns when networkd starts DHCPv6: as the boot, if a router asks for it or, with
// phase.ip=dhcp6, in any case.
func dhcp6Of(i network.Interface, renew bool) string {
	switch {
	case !renew || i.Lease6 == nil:
		return "no"
	case i.NoSLAAC:
		return "always"
	}
	return "yes"
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// acceptsRA reports whether the target listens to IPv6 routers: if the boot did. Their addresses and
// routes have lifetimes, and need no exchange, so the target learns them anew.
func acceptsRA(i network.Interface) bool {
	return slices.ContainsFunc(i.Addresses, func(a network.Address) bool { return a.From == "ra" || a.From == "dhcp6" })
}

// fixedAddresses returns the addresses that the target must be told.
func fixedAddresses(i network.Interface) []network.Address {
	return slices.DeleteFunc(slices.Clone(i.Addresses), func(a network.Address) bool { return a.From == "ra" })
}

// fixedRoutes returns the routes that the target must be told.
func fixedRoutes(i network.Interface) []network.Route {
	return slices.DeleteFunc(slices.Clone(i.Routes), func(r network.Route) bool { return r.To.Addr().Is6() && acceptsRA(i) })
}

// leaseEnd returns when the first lease of an interface ends, zero for never.
func leaseEnd(i network.Interface) (end time.Time) {
	for _, l := range []*network.Lease{i.Lease4, i.Lease6} {
		if l != nil && !l.Until.IsZero() && (end.IsZero() || l.Until.Before(end)) {
			end = l.Until
		}
	}
	return end
}

// renewIn returns when to renew the first lease, 0 for never. A DHCP server that did not answer the boot
// is asked as soon as the system runs: it may have started late.
func renewIn(list []network.Interface, now time.Time) time.Duration {
	if slices.ContainsFunc(list, func(i network.Interface) bool { return i.Asks4 }) {
		return leastRenew
	}
	if first := firstLeaseEnd(list); !first.IsZero() {
		return max(first.Sub(now)/2, leastRenew)
	}
	return 0
}

func firstLeaseEnd(list []network.Interface) (first time.Time) {
	for _, i := range list {
		if end := leaseEnd(i); !end.IsZero() && (first.IsZero() || end.Before(first)) {
			first = end
		}
	}
	return first
}

// maxHost is the longest host name of a machine, in bytes (sethostname(2)).
const maxHost = 64

// hostOf returns the host name that a DHCP server gave to the machine, "" without one. Of a name that is too
// long it returns the first label.
func hostOf(list []network.Interface) string {
	for _, i := range list {
		if i.Lease4 == nil || i.Lease4.Hostname == "" {
			continue
		}
		name := strings.TrimSuffix(i.Lease4.Hostname, ".")
		if len(name) > maxHost {
			name, _, _ = strings.Cut(name, ".")
		}
		if len(name) <= maxHost {
			return name
		}
	}
	return ""
}

// maxResolvers is how many name servers a resolver reads from resolv.conf.
const maxResolvers = 3

// resolvConf returns a resolv.conf. Servers with a zone are left out if there are others: the target may
// give the interface another name.
func resolvConf(s network.State) string {
	servers := slices.DeleteFunc(slices.Clone(s.Servers), func(a netip.Addr) bool { return a.Zone() != "" })
	if len(servers) == 0 {
		servers = s.Servers
	}
	var b strings.Builder
	b.WriteString("# from phase-boot: the name servers of the boot\n")
	for _, server := range servers[:min(len(servers), maxResolvers)] {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	var domains []string
	for _, i := range s.Interfaces {
		for _, l := range []*network.Lease{i.Lease4, i.Lease6} {
			if l != nil && l.Domain != "" && !slices.Contains(domains, l.Domain) {
				domains = append(domains, l.Domain)
			}
		}
	}
	if len(domains) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(domains, " "))
	}
	return b.String()
}

// setupLines returns the network as lines for a shell script: what, the interface, values. A card is
// named by its MAC address, a VLAN or a bond by its name. The order is that in which to follow them.
func setupLines(list []network.Interface) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	for _, i := range list {
		if i.Kind == "bond" {
			line("bond %s %s %s", i.Name, i.BondMode, i.MAC)
			for _, o := range bondOptions {
				if value := i.BondOptions[o.name]; value != "" {
					line("option %s %s %s", i.Name, o.name, value)
				}
			}
		}
	}
	for _, i := range list {
		switch {
		case i.Bond != "" && i.Primary:
			line("port %s %s primary", deviceWord(i), i.Bond)
		case i.Bond != "":
			line("port %s %s", deviceWord(i), i.Bond)
		}
	}
	for _, i := range list {
		if at := slices.IndexFunc(list, func(o network.Interface) bool { return i.Parent != "" && o.Name == i.Parent }); at >= 0 {
			line("vlan %s %s %d", i.Name, deviceWord(list[at]), i.VLAN)
		}
	}
	for _, i := range list {
		if len(i.Addresses) == 0 {
			continue
		}
		line("up %s %d", deviceWord(i), i.MTU)
		for _, a := range fixedAddresses(i) {
			line("address %s %s", deviceWord(i), a.Prefix)
		}
		for _, r := range fixedRoutes(i) {
			via := "-"
			if r.Via.IsValid() {
				via = r.Via.WithZone("").String()
			}
			line("route %s %s %s %d", deviceWord(i), r.To, via, r.Metric)
		}
	}
	return b.String()
}

// deviceWord returns the word for an interface in setupLines.
func deviceWord(i network.Interface) string {
	if i.Kind != "ethernet" {
		return i.Name
	}
	return i.PermanentMAC
}
