package bootargs

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

var trailingID = regexp.MustCompile(`(?:^|[^0-9])0{0,3}([1-9][0-9]{0,3})$`)

// A VLAN is a phase.vlan=NAME:PORT argument.
type VLAN struct {
	Name   string // of the new interface
	ID     int    // 1 to 4094, the number at the end of Name
	Parent string // name, MAC address or driver of the port, or the name of a bond
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
