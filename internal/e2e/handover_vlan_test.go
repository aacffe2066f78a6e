//go:build machine

package e2e

import "testing"

// The target makes the VLAN of the boot again, and has its address.
func TestMachineTargetKeepsTheVLANOfTheBoot(t *testing.T) {
	t.Parallel()
	l, dhcp := newSite(t)
	p, artifacts := publication(t), showingRootfs(t)
	p.signOwn(t, artifacts, "2026.12-show")
	p.serve(l.host())
	m := l.startQEMU(l.image("--default-mode", "local", "--cmdline", "phase.vlan=vlan7:eth0"), "none", l.onVLAN7()...)
	m.waitFor([]string{"] network: vlan7 10.55", "] kexec: starting"}, refused)
	said := dhcp.stderr.length()
	m.waitFor([]string{"] kexec: starting", "] target network: as in the boot", "host=node7", "|-- 10.55.0.1", "10.55.0.77", "shown"})
	noDHCPAfter(t, dhcp, said)
}
