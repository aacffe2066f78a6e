package bootargs

import (
	"fmt"
	"strings"
)

// foreignArgs are arguments for the initramfs of another system, and what is used instead of them.
var foreignArgs = []struct{ name, instead string }{
	{"nameserver", "name servers come from DHCP, IPv6 routers and phase.ip="},
	{"ifname", "interfaces keep the kernel's names; phase.ip= and phase.interface= accept a MAC address"},
	{"vlan", "write phase.vlan=NAME:PORT"},
	{"bond", "write phase.bond=NAME:PORT,PORT"},
	{"team", "write phase.bond=NAME:PORT,PORT"},
	{"bridge", "a bridge is not needed for a boot; write phase.ip= for its port"},
	{"BOOTIF", "every wired interface is used, or those of phase.interface="},
	{"root", "the root file system comes with the release"},
	{"rootfstype", "the root file system comes with the release"},
	{"nfsroot", "the root file system comes with the release"},
	{"rd.*", "this initramfs is not dracut's"},
}

// checkForeign returns an error for an argument of another system's initramfs, which has no effect
// here. Arguments of the kernel itself pass.
func checkForeign(word string) error {
	name, value, _ := strings.Cut(word, "=")
	for _, f := range foreignArgs {
		prefix, family := strings.CutSuffix(f.name, "*")
		if value != "" && name == f.name || family && strings.HasPrefix(name, prefix) {
			return fmt.Errorf("%.80q: not supported: %s", word, f.instead)
		}
	}
	return nil
}
