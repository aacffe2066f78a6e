package bootargs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Bond is a phase.bond=NAME:PORT,PORT[:OPTION=VALUE,…[:MTU]] argument.
type Bond struct {
	Name    string            // of the new interface
	Members []string          // names, MAC addresses or drivers of ports
	Mode    string            // as the kernel names it; active-backup if it is not given
	Options map[string]string // checked: miimon, updelay, downdelay, lacp_rate, xmit_hash_policy, primary
	MTU     int               // 0 for that of the ports
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
