package bootargs

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Methods of an IP.
const (
	MethodAny       = "any"        // DHCPv4, IPv6 router advertisements, DHCPv6 where a router asks for it, at last IPv4 link-local
	MethodDHCP      = "dhcp"       // DHCPv4 only
	MethodDHCP6     = "dhcp6"      // DHCPv6; the routes come from IPv6 router advertisements
	MethodAuto6     = "auto6"      // IPv6 router advertisements
	MethodLinkLocal = "link-local" // an IPv4 link-local address (RFC 3927)
	MethodStatic    = "static"     // Address and Gateway
	MethodOff       = "off"        // no address
)

// methods maps the words of an ip= argument to methods.
var methods = map[string]string{
	"any": MethodAny, "on": MethodAny, "both": MethodAny, "dhcp": MethodDHCP, "dhcp6": MethodDHCP6, "auto6": MethodAuto6,
	"link-local": MethodLinkLocal, "off": MethodOff, "none": MethodOff, "static": MethodStatic,
}

const methodWords = "dhcp, any, on, dhcp6, auto6, link-local, off, none"

// An IP is a phase.ip= or ip= argument: how one port, or every port, gets its addresses.
type IP struct {
	Device  string       // name, MAC address or driver of the port; "" for every port
	Method  string       // MethodAny …
	Address netip.Prefix // of MethodStatic
	Gateway netip.Addr   // of MethodStatic; may be invalid for none
	Servers []netip.Addr // DNS, at most 2
	MTU     int          // 0 for that of the port
	Plain   bool         // an ip= argument, which counts only without a phase.ip=
}

// A VLAN is a phase.vlan=NAME:PORT argument.
type VLAN struct {
	Name   string // of the new interface
	ID     int    // 1 to 4094, the number at the end of Name
	Parent string // name, MAC address or driver of the port, or the name of a bond
}

// A Bond is a phase.bond=NAME:PORT,PORT[:OPTION=VALUE,…[:MTU]] argument.
type Bond struct {
	Name    string            // of the new interface
	Members []string          // names, MAC addresses or drivers of ports
	Mode    string            // as the kernel names it; active-backup if it is not given
	Options map[string]string // checked: miimon, updelay, downdelay, lacp_rate, xmit_hash_policy, primary
	MTU     int               // 0 for that of the ports
}

const maxMTU = 65535

var (
	interfaceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$`)
	selector      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`)
	trailingID    = regexp.MustCompile(`(?:^|[^0-9])0{0,3}([1-9][0-9]{0,3})$`)
)

// ParseIP parses the value of phase.ip= or ip=, which has the syntax of the Linux kernel with the
// additions of dracut: METHOD, DEVICE:METHOD[:MTU], or
// ADDRESS:SERVER:GATEWAY:NETMASK:HOSTNAME:DEVICE:METHOD:DNS:DNS:NTP. An IPv6 address has brackets. The
// netmask may be a prefix length. SERVER, HOSTNAME and NTP are not used.
func ParseIP(value string) (IP, error) {
	f, err := splitIP(value)
	switch {
	case err != nil:
		return IP{}, err
	case isDotted(f[0]) && !isAddress(f[0]):
		return IP{}, fmt.Errorf("%.40q: not an IPv4 address; write it like 192.0.2.7/24", f[0])
	case len(f) == 1 && !isAddress(f[0]):
		return methodIP(f[0])
	case len(f) > 1 && f[0] != "" && !isAddress(f[0]):
		return deviceIP(f)
	case len(f) > 10:
		return IP{}, fmt.Errorf("%d fields; there are at most 10", len(f))
	}
	return longIP(append(f, make([]string, 10-len(f))...))
}

// splitIP splits a value at the colons outside brackets, and removes the brackets.
func splitIP(value string) ([]string, error) {
	var fields []string
	for rest := value; ; {
		field, after, open := "", rest, strings.HasPrefix(rest, "[")
		if open {
			inner, tail, closed := strings.Cut(rest[1:], "]")
			if !closed {
				return nil, fmt.Errorf("no ] after [")
			}
			field, after = inner, tail
		}
		more, next, found := strings.Cut(after, ":")
		if open && more != "" && more[0] != '/' {
			return nil, fmt.Errorf("%.40q after ]; write a colon there", more)
		}
		fields = append(fields, field+more)
		if !found {
			return fields, nil
		}
		rest = next
	}
}

func isAddress(s string) bool {
	host, _, _ := strings.Cut(s, "/")
	_, err := netip.ParseAddr(host)
	return err == nil
}

// isDotted reports whether a field has the form of an IPv4 address.
func isDotted(s string) bool {
	host, _, _ := strings.Cut(s, "/")
	return strings.Contains(host, ".") && strings.Trim(host, "0123456789.") == ""
}

func methodIP(word string) (IP, error) {
	m, ok := methods[word]
	if !ok || m == MethodStatic {
		return IP{}, fmt.Errorf("%.40q: unknown method; use %s, or an address with its netmask", word, methodWords)
	}
	return IP{Method: m}, nil
}

// deviceIP reads DEVICE:METHOD[:MTU].
func deviceIP(f []string) (IP, error) {
	if whole := strings.Join(f, ":"); isAddress(whole) {
		return IP{}, fmt.Errorf("%.60q: an IPv6 address needs brackets; write it like [2001:db8::7]/64", whole)
	}
	p, err := methodIP(f[1])
	if err == nil {
		p.Device, err = Selector(f[0])
	}
	if err == nil && len(f) > 2 && f[2] != "" {
		p.MTU, err = parseMTU(f[2])
	}
	if err == nil && (len(f) > 4 || len(f) == 4 && f[3] != "") {
		err = fmt.Errorf("%.40q: only an MTU may follow the method", strings.Join(f[2:], ":"))
	}
	return p, err
}

// longIP reads the ten fields of the kernel's syntax.
func longIP(f []string) (p IP, err error) {
	if _, method := methods[f[5]]; method && f[5] != "" {
		return p, fmt.Errorf("%.40q: a method in the place of the port; a colon for the field HOSTNAME is missing", f[5])
	}
	if p.Device = f[5]; p.Device != "" {
		if p.Device, err = Selector(f[5]); err != nil {
			return p, err
		}
	}
	if p.Servers, err = addresses(f[7:9]); err != nil {
		return p, fmt.Errorf("DNS server: %w", err)
	}
	m, known := methods[f[6]]
	switch {
	case f[6] != "" && !known:
		return p, fmt.Errorf("%.40q: unknown method; use %s", f[6], methodWords)
	case f[0] == "" && (m == MethodStatic || f[2] != "" || f[3] != ""):
		return p, fmt.Errorf("a gateway, a netmask or the method static without an address; put the address first")
	case f[0] == "":
		if p.Method = m; f[6] == "" {
			p.Method = MethodAny
		}
		return p, nil
	case f[6] != "" && m != MethodOff && m != MethodStatic:
		return p, fmt.Errorf("an address and the method %s; write two arguments, one with the address and one with the method", f[6])
	}
	p.Method = MethodStatic
	return p, p.static(f[0], f[2], f[3])
}

// static sets the address and the gateway.
func (p *IP) static(address, gateway, mask string) error {
	if !strings.Contains(address, "/") {
		bits, err := prefixLength(mask)
		if err != nil {
			return err
		}
		address += "/" + bits
	}
	var err error
	if p.Address, err = netip.ParsePrefix(address); err != nil {
		return fmt.Errorf("address %.60q: not an address with a prefix length", address)
	}
	if ip := p.Address.Addr(); ip.Is4In6() || ip.IsMulticast() || ip.IsUnspecified() || ip.IsLoopback() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || p.Address.Bits() == 0 {
		return fmt.Errorf("address %.60q: not usable for a host", address)
	}
	if gateway == "" {
		return nil
	}
	if p.Gateway, err = netip.ParseAddr(gateway); err != nil || p.Gateway.Is4() != p.Address.Addr().Is4() || p.Gateway.Zone() != "" || p.Gateway.IsUnspecified() || p.Gateway.IsMulticast() || p.Gateway.IsLoopback() {
		return fmt.Errorf("gateway %.60q: not an address of the same kind as %s", gateway, p.Address)
	}
	return nil
}

// prefixLength returns the prefix length of a netmask like 255.255.255.0 or 24.
func prefixLength(mask string) (string, error) {
	if n, err := strconv.ParseUint(mask, 10, 8); err == nil && n > 0 && n <= 128 {
		return mask, nil
	}
	if a, err := netip.ParseAddr(mask); err == nil && a.Is4() {
		if ones, bits := net.IPMask(a.AsSlice()).Size(); bits == 32 && ones > 0 {
			return strconv.Itoa(ones), nil
		}
	}
	return "", fmt.Errorf("netmask %.40q: not a netmask; write it like 255.255.255.0 or 24", mask)
}

func addresses(fields []string) (out []netip.Addr, err error) {
	for _, s := range fields {
		if s == "" {
			continue
		}
		a, err := netip.ParseAddr(s)
		if err != nil || a.Is4In6() || a.IsMulticast() || a.IsUnspecified() || a.Zone() != "" {
			return nil, fmt.Errorf("%.60q: not an address", s)
		}
		out = append(out, a)
	}
	return out, nil
}

func parseMTU(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 576 || n > maxMTU {
		return 0, fmt.Errorf("MTU %.20q: must be between 576 and %d", s, maxMTU)
	}
	return n, nil
}

// Selector checks the name, MAC address or driver of a port. A MAC address is returned with colons and
// in lower case; it may be written with hyphens, as in a field between colons.
func Selector(s string) (string, error) {
	if mac, err := net.ParseMAC(s); err == nil && len(mac) == 6 {
		return mac.String(), nil
	}
	if !selector.MatchString(s) {
		return "", fmt.Errorf("%.40q: not the name, MAC address or driver of a network card", s)
	}
	return s, nil
}

func selectors(list string) (out []string, err error) {
	for s := range strings.SplitSeq(list, ",") {
		one, err := Selector(s)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(out, one) {
			out = append(out, one)
		}
	}
	if len(out) > MaxRepeats {
		return nil, fmt.Errorf("%d network cards; at most %d are used", len(out), MaxRepeats)
	}
	return out, nil
}

// ParseVLAN parses the value of phase.vlan=. The names that dracut accepts all end in the number of
// the VLAN: vlan7, vlan0007, eth0.7, eth0.0007.
func ParseVLAN(value string) (v VLAN, err error) {
	name, parent, _ := strings.Cut(value, ":")
	m := trailingID.FindStringSubmatch(name)
	if !interfaceName.MatchString(name) || m == nil {
		return v, fmt.Errorf("%.40q: not the name of a VLAN, which has at most 15 characters and ends in its number; write it like vlan7:eth0", name)
	}
	v.Name = name
	if v.ID, err = strconv.Atoi(m[1]); err != nil || v.ID > 4094 {
		return v, fmt.Errorf("VLAN %s: must be between 1 and 4094", m[1])
	}
	if v.Parent, err = Selector(parent); err != nil {
		return v, err
	}
	if v.Parent == v.Name {
		return v, fmt.Errorf("VLAN %s: its port has the same name", v.Name)
	}
	return v, nil
}

// bondModes are the modes in the order of their numbers.
var bondModes = []string{"balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"}

// bondOptions has the accepted values of each option; nil is a time in milliseconds.
var bondOptions = map[string][]string{
	"miimon": nil, "updelay": nil, "downdelay": nil,
	"lacp_rate":        {"slow", "fast", "0", "1"},
	"xmit_hash_policy": {"layer2", "layer2+3", "layer3+4", "encap2+3", "encap3+4"},
}

// ParseBond parses the value of phase.bond=, which has dracut's syntax.
func ParseBond(value string) (b Bond, err error) {
	f := strings.Split(value, ":")
	if len(f) < 2 || len(f) > 4 || !interfaceName.MatchString(f[0]) {
		return b, fmt.Errorf("not a bond; write it like bond0:eth0,eth1:mode=active-backup (a MAC address with hyphens)")
	}
	b = Bond{Name: f[0], Mode: "active-backup", Options: map[string]string{}}
	if b.Members, err = selectors(f[1]); err != nil {
		return b, err
	}
	if slices.Contains(b.Members, b.Name) {
		return b, fmt.Errorf("bond %s: one of its ports has the same name", b.Name)
	}
	if len(f) > 2 && f[2] != "" {
		for word := range strings.SplitSeq(f[2], ",") {
			if err := b.option(word); err != nil {
				return b, err
			}
		}
	}
	if len(f) > 3 && f[3] != "" {
		b.MTU, err = parseMTU(f[3])
	}
	return b, err
}

func (b *Bond) option(word string) error {
	name, value, _ := strings.Cut(word, "=")
	allowed, known := bondOptions[name]
	ok := known && slices.Contains(allowed, value)
	switch {
	case name == "mode":
		if n, err := strconv.Atoi(value); err == nil && n >= 0 && n < len(bondModes) {
			value = bondModes[n]
		}
		if !slices.Contains(bondModes, value) {
			return fmt.Errorf("bond mode %.40q: unknown; use %s", value, strings.Join(bondModes, ", "))
		}
		b.Mode = value
		return nil
	case name == "primary":
		one, err := Selector(value)
		if err != nil || !slices.Contains(b.Members, one) {
			return fmt.Errorf("primary=%.40s: not one of the ports of the bond", value)
		}
		b.Options[name] = one
		return nil
	case known && allowed == nil:
		n, err := strconv.Atoi(value)
		ok = err == nil && n >= 0 && n <= 60000
	}
	if !ok {
		return fmt.Errorf("bond option %.60q: unknown, or an invalid value; use mode, primary, miimon, updelay, downdelay, lacp_rate, xmit_hash_policy", word)
	}
	b.Options[name] = value
	return nil
}

// isNetwork reports whether takeNetwork reads an argument.
func isNetwork(name string) bool {
	return slices.Contains([]string{"ip", "phase.ip", "phase.vlan", "phase.bond", "phase.interface", "phase.proxy"}, name)
}

// takeNetwork adds an argument of the network.
func (a *Arguments) takeNetwork(name, value string) error {
	switch name {
	case "ip", "phase.ip":
		return takeValue(&a.IP, value, func(s string) (IP, error) {
			p, err := ParseIP(s)
			p.Plain = name == "ip"
			return p, err
		})
	case "phase.vlan":
		return takeValue(&a.VLANs, value, ParseVLAN)
	case "phase.bond":
		return takeValue(&a.Bonds, value, ParseBond)
	case "phase.interface":
		for s := range strings.SplitSeq(value, ",") {
			if err := takeValue(&a.Interfaces, s, Selector); err != nil {
				return err
			}
		}
		return nil
	}
	if err := CheckProxy(value); err != nil {
		return err
	}
	a.Proxy = value
	return nil
}

// takeValue appends a value that parse accepts, as long as there are fewer than MaxRepeats.
func takeValue[T any](list *[]T, value string, parse func(string) (T, error)) error {
	v, err := parse(value)
	if err == nil && len(*list) == MaxRepeats {
		err = fmt.Errorf("at most %d values are used", MaxRepeats)
	}
	if err == nil {
		*list = append(*list, v)
	}
	return err
}

// dropPlain removes the ip= arguments if there is a phase.ip=.
func (a *Arguments) dropPlain() {
	if slices.ContainsFunc(a.IP, func(p IP) bool { return !p.Plain }) {
		a.IP = slices.DeleteFunc(a.IP, func(p IP) bool { return p.Plain })
	}
}

// CheckProxy refuses a value that is not the URL of an HTTP or SOCKS5 proxy.
func CheckProxy(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme) {
		return fmt.Errorf("not the URL of a proxy; write it like http://proxy.example:3128 or socks5://192.0.2.1:1080")
	}
	return nil
}
