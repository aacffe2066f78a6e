package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// QEMU's arguments for the consoles of a machine.
var (
	screenAlone = []string{"-vga", "std", "-serial", "none"}
	serialAlone = []string{"-vga", "none", "-serial", "stdio"}
	both        = []string{"-vga", "std", "-serial", "stdio"}
	neither     = []string{"-vga", "none", "-serial", "none"}
)

// noCard starts a machine without a network card, which can be plugged in later.
func (l *lan) noCard(image string, more ...string) *screen {
	l.t.Helper()
	monitor := filepath.Join(l.dir, fmt.Sprintf("qmp%d", l.next)) // not in t.TempDir: its name may have a comma
	disk := filepath.Join(l.dir, fmt.Sprintf("disk%d.img", l.next))
	must(l.t, "cp", "--sparse=always", image, disk)
	args := append(monitorAt(monitor), "-device", "pcie-root-port,id=hp1,chassis=1", "-netdev", "tap,id=lan,ifname="+l.tap()+",script=no,downscript=no")
	return l.startQEMU(disk, "none", append(args, more...)...).connectMonitor(monitor, nil)
}

// plugCard adds a network card to the running machine.
func (s *screen) plugCard(mac string) {
	s.t.Helper()
	s.do("device_add", map[string]any{"driver": "virtio-net-pci", "netdev": "lan", "bus": "hp1", "id": "card", "romfile": "", "mac": mac})
}

var noCardWords = []string{refused, "no wired network card"}

// After a refused boot, each console shows the report, the refusal and the menu, and accepts keys. When a
// network card is plugged in, the boot starts again without a key. A hardware watchdog is kicked.
func TestEveryConsoleShowsARefusalAndAcceptsKeys(t *testing.T) {
	t.Parallel()
	l := newSegment(t, "10.55.0")
	l.leases("2m", "--port=0") // the target renews a lease after half of its time
	l.host().publish("--dht", "off")
	var letters font
	ok := t.Run("vm, a screen and a serial line", func(t *testing.T) {
		l.t = t
		s := l.noCard(fx.path("local.img"), both...)
		s.waitFor(append([]string{"] memory: "}, append(noCardWords, menuShown, "by itself in", "waiting for")...)) // no later line of the watcher changes the screen
		s.learn()
		letters = s.font
		s.typeKeys("8\n")
		s.waitForText("built-in shell", "# ")
		s.typeKeys("echo screen$((40+2)) >/dev/ttyS0\n")
		before := s.waitFrom(0, []string{"screen42"})
		s.typeSerial("phase-boot retry\n")
		s.waitFrom(before, append([]string{"] memory: "}, noCardWords...))
		s.waitForText(append([]string{"] memory: "}, append(noCardWords, menuShown)...)...)
		s.saveScreenshot("vm-both")
		s.powerOff()
	})
	if !ok {
		return
	}
	for _, flavour := range []string{"vm", "generic"} {
		image := map[string]string{"vm": fx.path("local.img"), "generic": fx.path("generic.img")}[flavour]
		t.Run(flavour+", a screen alone", func(t *testing.T) {
			l.t = t
			s := l.noCard(image, screenAlone...)
			s.font = letters
			s.waitForText(append([]string{"] modules: "}, append(noCardWords, "1 try again now", menuShown, "any key stops")...)...) // earlier lines have scrolled off
			s.saveScreenshot(flavour + "-screen-refused")
			s.typeKeys("8\n")
			s.waitForText("built-in shell", "# ")
			s.typeKeys("clear; phase-boot status\n")
			s.waitForText("clock    20", "no network card", "] memory: ", refused)
			s.saveScreenshot(flavour + "-screen-status")
			if flavour == "generic" {
				return
			}
			s.typeKeys("exit\n")
			s.waitForText(refused, menuShown)
			s.plugCard("52:54:00:aa:bb:01")
			s.waitForText("phase-boot: target: release " + release)
			s.saveScreenshot(flavour + "-screen-target")
		})
		t.Run(flavour+", a serial line alone", func(t *testing.T) {
			l.t = t
			more := serialAlone
			if flavour == "generic" {
				more = append([]string{"-device", "i6300esb"}, more...)
			}
			s := l.noCard(image, more...)
			s.waitFor(append([]string{"] memory: "}, append(noCardWords, menuShown)...))
			if flavour == "generic" {
				s.waitFor([]string{"] watchdog: i6300ESB timer restarts the machine if the boot hangs for 1m0s"})
			}
			s.typeSerial("5\r")
			s.waitFor([]string{"network  no network card", menuShown, "> 5 network"})
			s.typeSerial("8\r")
			s.waitFor([]string{"built-in shell", "# "})
			s.typeSerial("phase-boot status\n")
			s.waitFor([]string{"clock    20", "no network card", refused})
			s.saveLog(flavour + "-serial")
			s.powerOff()
		})
	}
	t.Run("no console: the boot continues", func(t *testing.T) {
		l.t = t
		s := l.noCard(fx.path("local.img"), neither...)
		s.plugCard("52:54:00:aa:bb:cc") // at any time of the boot: there is no console to wait for
		leases := filepath.Join(l.dir, "leases")
		for end := time.Now().Add(bootDeadline); ; time.Sleep(time.Second) { // dnsmasq has no event to wait for
			data, err := os.ReadFile(leases)
			if err == nil && strings.Contains(string(data), " 01:52:54:00:aa:bb:cc\n") {
				return // only the target sends a client identifier, not the boot client
			}
			if time.Now().After(end) {
				t.Fatalf("no DHCP lease of the target; leases: %q", data)
			}
		}
	})
}
