package bootargs

import (
	"fmt"
	"slices"
	"strings"
)

// foreignWords are words for the initramfs of another system, which a person may bring
// from there: what they ask for, and what decides it here.
var foreignWords = []struct{ name, instead string }{
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

// foreign returns an error for a word that the machine does not obey although its author
// expects that. Words of the kernel itself are none of those.
func foreign(word string) error {
	name, value, _ := strings.Cut(word, "=")
	if name == "ip" && slices.Contains([]string{"dhcp", "on", "any"}, value) {
		return nil // what happens anyway
	}
	for _, f := range foreignWords {
		prefix, family := strings.CutSuffix(f.name, "*")
		if value != "" && name == f.name || family && strings.HasPrefix(name, prefix) {
			return fmt.Errorf("%.80q: not supported: %s", word, f.instead)
		}
	}
	return nil
}
