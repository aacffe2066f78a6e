package bootargs

import (
	"fmt"
	"slices"
	"strings"
)

// foreignArgs are arguments for the initramfs of another system, and what is used instead of them.
var foreignArgs = []struct{ name, instead string }{
	{"ip", "addresses come from DHCP and IPv6 router advertisements"},
	{"phase.ip", "addresses come from DHCP and IPv6 router advertisements"},
	{"nameserver", "name servers come from DHCP"},
	{"ifname", "interfaces keep the kernel's names"},
	{"vlan", "only plain wired interfaces are used"},
	{"bond", "only plain wired interfaces are used"},
	{"team", "only plain wired interfaces are used"},
	{"bridge", "only plain wired interfaces are used"},
	{"BOOTIF", "every wired interface is used"},
	{"root", "the root file system comes with the release"},
	{"rootfstype", "the root file system comes with the release"},
	{"nfsroot", "the root file system comes with the release"},
	{"rd.*", "this initramfs is not dracut's"},
}

// checkForeign returns an error for an argument of another system's initramfs, which has no effect
// here. Arguments of the kernel itself pass.
func checkForeign(word string) error {
	name, value, _ := strings.Cut(word, "=")
	if name == "ip" && slices.Contains([]string{"dhcp", "on", "any"}, value) {
		return nil // DHCP is used anyway
	}
	for _, f := range foreignArgs {
		prefix, family := strings.CutSuffix(f.name, "*")
		if value != "" && name == f.name || family && strings.HasPrefix(name, prefix) {
			return fmt.Errorf("%.80q: not supported: %s", word, f.instead)
		}
	}
	return nil
}
