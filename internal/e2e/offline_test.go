package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// warmStick returns a disk whose cache holds the release: one boot has fetched it.
func (l *lan) warmStick() string {
	l.t.Helper()
	disk := filepath.Join(l.dir, "warm.img")
	must(l.t, "cp", "--sparse=always", fx.path("local.img"), disk)
	m := l.powerOn(disk)
	m.waitFor([]string{"] cache: /dev/vda2 (rw)", resolved, "] kexec: starting"}, refused)
	m.powerOff()
	return disk
}

// setMode makes a mode the default of the loader's menu.
func setMode(t *testing.T, disk, mode string) {
	t.Helper()
	menu := filepath.Join(t.TempDir(), "loader.conf")
	must(t, "mcopy", "-n", "-i", disk+"@@1M", "::/loader/loader.conf", menu)
	var lines [][]byte
	for line := range bytes.Lines(readFile(t, menu)) {
		if bytes.HasPrefix(line, []byte("default ")) {
			line = fmt.Appendf(nil, "default %s.conf\n", mode)
		}
		lines = append(lines, line)
	}
	if err := os.WriteFile(menu, bytes.Join(lines, nil), 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, "mcopy", "-o", "-i", disk+"@@1M", menu, "::/loader/loader.conf")
}

// unplugged starts a machine whose only network card has no link.
func (l *lan) unplugged(disk string, more ...string) *screen {
	l.t.Helper()
	monitor := filepath.Join(l.dir, fmt.Sprintf("qmp%d", l.next))
	args := append(monitorAt(monitor), "-vga", "none", "-serial", "stdio", "-S",
		"-netdev", "tap,id=lan,script=no,downscript=no,ifname="+l.tap(), "-device", "virtio-net-pci,netdev=lan,id=card,romfile=,mac=52:54:00:00:00:21")
	s := l.startQEMU(disk, "none", append(args, more...)...).connectMonitor(monitor, nil)
	s.do("set_link", map[string]any{"name": "card", "up": false})
	s.do("cont", nil)
	return s
}

// A machine whose cache holds a release with valid metadata boots it without any source, whatever is
// wrong with the network, and does not wait for what cannot come.
func TestAWarmCacheBootsWithoutANetwork(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	publisher := l.host().publish("--dht", "off")
	disk := l.warmStick()
	publisher.stop()
	cut := newSegment(t, "10.56.0") // no DHCP server
	cut.dir = l.dir
	fromCache := resolved + " from the cache, which is still valid"
	noLink := "] network: failed: no address after 4s: eth0: no link; check the cable"
	for _, row := range []struct {
		name, mode string
		start      func() *machine
		network    string
	}{
		{"no link", "internet", func() *machine { return l.unplugged(disk).machine }, noLink},
		{"no link", "local", func() *machine { return l.unplugged(disk).machine }, noLink},
		{"no DHCP server", "internet", func() *machine { return cut.powerOn(disk) }, "] network: failed: no address after 6s: eth0: no answer from a DHCP server"},
		{"no network card", "local", func() *machine { return l.startQEMU(disk, "none") }, "] network: failed: no wired network card"},
	} {
		t.Run(row.name+", "+row.mode, func(t *testing.T) {
			l.t, cut.t = t, t
			setMode(t, disk, row.mode)
			m := row.start()
			m.waitFor([]string{"] command line: mode " + row.mode, "] cache: ", row.network, fromCache, "] source: cache", "] kexec: starting"}, refused)
			m.powerOff()
		})
	}
	t.Run("no link for 60 days, edge", func(t *testing.T) {
		l.t = t
		setMode(t, disk, "edge")
		m := l.unplugged(disk, "-rtc", "base="+time.Now().Add(60*24*time.Hour).UTC().Format("2006-01-02T15:04:05"))
		m.waitFor([]string{noLink, "] resolve: NOT UP TO DATE: the last good release, as mode edge allows", "] kexec: starting"}, refused)
		m.powerOff()
	})
}
