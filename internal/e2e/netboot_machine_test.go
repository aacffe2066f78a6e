//go:build machine

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var dnsmasqBlock = regexp.MustCompile("(?s)```dnsmasq\n# ([^\n]*)\n(.*?)```")

// netbootDHCP starts a DHCP server with the lines of docs/NETBOOT.md that have this title. The
// document's publisher becomes the one with the address.
func (l *lan) netbootDHCP(title, publisher string) {
	l.t.Helper()
	for _, m := range dnsmasqBlock.FindAllStringSubmatch(string(readFile(l.t, "../../docs/NETBOOT.md")), -1) {
		if m[1] != title {
			continue
		}
		var options []string
		for line := range strings.Lines(m[2]) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				options = append(options, "--"+strings.ReplaceAll(line, "192.0.2.80", publisher))
			}
		}
		l.dhcp(options...)
		return
	}
	l.t.Fatalf("docs/NETBOOT.md: no lines of dnsmasq with the title %q", title)
}

// netboot starts a machine without a disk on a new LAN, with the DHCP server of docs/NETBOOT.md. Its
// publisher is not announced: only DHCP option 224 names it.
func netboot(t *testing.T, title, arch string) *machine {
	t.Helper()
	l := newSegment(t, "10.55.0")
	dir := t.TempDir()
	uki := filepath.Join(dir, "uki-"+arch+".efi")
	must(t, fx.bin("phase-image"), "uki", "--arch", arch, "--root", fx.path(bothRepo, "root.json"), "--default-mode", "local", "--out", uki)
	h := l.host()
	h.publishBoth("--mdns=false", "--netboot", uki)
	l.netbootDHCP(title, h.addr)
	unused := filepath.Join(dir, "no-disk")
	if err := os.WriteFile(unused, make([]byte, 512), 0o644); err != nil {
		t.Fatal(err)
	}
	return l.startArch(arch, unused, "DISK=none")
}

// startArch starts a machine for an architecture. more are variables of the script.
func (l *lan) startArch(arch, disk string, more ...string) *machine {
	l.t.Helper()
	env := append(more, "MEM=1536", "NET=tap:"+l.tap())
	if arch != "arm64" {
		return l.startQEMUWith(env, disk)
	}
	return l.startMachine("../../scripts/test-qemu-arm64.sh", append(env, "ACCEL="), disk) // the script finds it
}

func TestMachineBootsByUEFIHTTPBootWithoutADisk(t *testing.T) {
	t.Parallel()
	for arch, marks := range map[string][]string{"x86_64": bootMarks(), "arm64": armMarks()} {
		t.Run(arch, func(t *testing.T) {
			t.Parallel()
			m := netboot(t, "UEFI HTTP boot", arch)
			m.waitFor(append([]string{`"UEFI HTTPv4`}, marks[1:]...), refused)
		})
	}
}

func TestMachineBootsByPXEAndIPXEWithoutADisk(t *testing.T) {
	t.Parallel()
	m := netboot(t, "PXE", "x86_64")
	m.waitFor(append([]string{`"UEFI PXEv4`, "iPXE", "uki-x86_64.ipxe"}, bootMarks()[1:]...), refused)
}
