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
func netboot(t *testing.T, title string) *machine {
	t.Helper()
	l := newSegment(t, "10.55.0")
	dir := t.TempDir()
	uki := filepath.Join(dir, "uki-x86_64.efi")
	must(t, fx.bin("phase-image"), "uki", "--root", fx.path("repo/root.json"), "--default-mode", "local", "--out", uki)
	h := l.host()
	h.publish("--dht", "off", "--mdns=false", "--netboot", uki)
	l.netbootDHCP(title, h.addr)
	unused := filepath.Join(dir, "no-disk")
	if err := os.WriteFile(unused, make([]byte, 512), 0o644); err != nil {
		t.Fatal(err)
	}
	return l.startQEMUWith([]string{"MEM=1536", "NET=tap:" + l.tap(), "DISK=none"}, unused)
}

func TestMachineBootsByUEFIHTTPBootWithoutADisk(t *testing.T) {
	t.Parallel()
	m := netboot(t, "UEFI HTTP boot")
	m.waitFor(append([]string{`"UEFI HTTPv4`}, bootMarks()[1:]...), refused)
}

func TestMachineBootsByPXEAndIPXEWithoutADisk(t *testing.T) {
	t.Parallel()
	m := netboot(t, "PXE")
	m.waitFor(append([]string{`"UEFI PXEv4`, "iPXE", "uki-x86_64.ipxe"}, bootMarks()[1:]...), refused)
}
