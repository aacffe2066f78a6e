package bootargs

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const maxMTU = 65535

var (
	interfaceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$`)
	selector      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`)
)

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
