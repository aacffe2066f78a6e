//go:build machine

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// The target makes the VLAN of the boot again, and has its address.
func TestMachineTargetKeepsTheVLANOfTheBoot(t *testing.T) {
	t.Parallel()
	l, dhcp := newSite(t)
	p, artifacts := publication(t), showingRootfs(t)
	p.signOwn(t, artifacts, "2026.12-show")
	p.serve(l.host())
	socket := filepath.Join(l.dir, "switch")
	l.trunk(socket, 7)
	m := l.startQEMU(l.withArguments("phase.vlan=vlan7:eth0"), "none", "-device", "virtio-net-pci,netdev=trunk,romfile=,mac=52:54:00:00:00:07",
		"-netdev", "stream,id=trunk,server=off,addr.type=unix,addr.path="+socket)
	m.waitFor([]string{"] network: vlan7 10.55", "] kexec: starting"}, refused)
	said, _ := dhcp.stderr.since(0)
	m.waitFor([]string{"] kexec: starting", "] target network: as in the boot", "host=node7", "|-- 10.55.0.1", "10.55.0.77", "shown"})
	if after, _ := dhcp.stderr.since(len(said)); strings.Contains(string(after), "DHCP") {
		t.Errorf("DHCP after the jump:\n%s", after)
	}
}
