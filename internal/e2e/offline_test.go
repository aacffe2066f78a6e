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

// powerOnUnplugged starts a machine whose only network card has no link.
func (l *lan) powerOnUnplugged(disk string, more ...string) *screen {
	l.t.Helper()
	monitor := filepath.Join(l.dir, fmt.Sprintf("qmp%d", l.next))
	args := append(append(monitorAt(monitor), serialAlone...), "-S")
	s := l.powerOn(disk, append(args, more...)...).connectMonitor(monitor, nil)
	s.startUnplugged(theCard)
	return s
}

// A machine whose cache holds a release with valid metadata boots it without any source, and does not wait
// for what cannot come. docs/MATRIX.md has the same without a DHCP server and without a network card.
func TestAWarmCacheBootsWithoutANetwork(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	publisher := l.host().publish("--dht", "off")
	disk := l.warmStick()
	publisher.stop()
	const noLink = "] network: failed: no address after 4s: eth0: no link; check the cable"
	t.Run("no link, internet", func(t *testing.T) {
		l.t = t
		setMode(t, disk, "internet")
		m := l.powerOnUnplugged(disk)
		m.waitFor([]string{"] command line: mode internet", noLink, resolved + " from the cache, which is still valid", "] source: cache", "] kexec: starting"}, refused)
		m.powerOff()
	})
	t.Run("no link for 60 days, edge", func(t *testing.T) {
		l.t = t
		setMode(t, disk, "edge")
		m := l.powerOnUnplugged(disk, "-rtc", "base="+time.Now().Add(60*24*time.Hour).UTC().Format("2006-01-02T15:04:05"))
		m.waitFor([]string{noLink, "] resolve: NOT UP TO DATE: the last good release, as mode edge allows", "] kexec: starting"}, refused)
		m.powerOff()
	})
}
