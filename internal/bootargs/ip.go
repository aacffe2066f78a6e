package bootargs

import (
	"fmt"
	"net"
	"net/netip"
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
