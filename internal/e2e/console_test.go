package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Which consoles a machine has: QEMU's arguments.
var (
	screenAlone = []string{"-vga", "std", "-serial", "none"}
	serialAlone = []string{"-vga", "none", "-serial", "stdio"}
	both        = []string{"-vga", "std", "-serial", "stdio"}
	neither     = []string{"-vga", "none", "-serial", "none"}
)

// noCard is a machine without a network card that has a place for one.
func (l *lan) noCard(image string, more ...string) *screen {
	l.t.Helper()
	monitor := filepath.Join(l.dir, fmt.Sprintf("qmp%d", l.next)) // not in a folder of the test, whose name may have a comma
	disk := filepath.Join(l.dir, fmt.Sprintf("disk%d.img", l.next))
	must(l.t, "cp", "--sparse=always", image, disk)
	args := append(monitorAt(monitor), "-device", "pcie-root-port,id=hp1,chassis=1", "-netdev", "tap,id=lan,ifname="+l.tap()+",script=no,downscript=no")
	return l.plain(disk, "none", append(args, more...)...).look(monitor, nil)
}

// plugsIn gives the machine a network card while it runs.
func (s *screen) plugsIn(mac string) {
	s.t.Helper()
	s.do("device_add", map[string]any{"driver": "virtio-net-pci", "netdev": "lan", "bus": "hp1", "id": "card", "romfile": "", "mac": mac})
}

var noCardWords = []string{refused, "no wired network card"}

// Each console of a refused boot shows the report and the refusal, and has a prompt that
// takes keys; a network card that is plugged in starts the boot again without one.
func TestEveryConsoleShowsARefusalAndTakesKeys(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	l.host().publish("--dht", "off")
	var letters font
	for _, flavour := range []string{"vm", "generic"} {
		image := map[string]string{"vm": fx.path("local.img"), "generic": fx.path("generic.img")}[flavour]
		ok := t.Run(flavour+", a screen and a serial line", func(t *testing.T) {
			l.t = t
			s := l.noCard(image, both...)
			s.sees(append([]string{"] memory: "}, append(noCardWords, "built-in shell", "# ")...))
			s.enters("awk 'BEGIN{for(i=33;i<127;i++)printf \"%c\",i}' | (clear; cat; echo) >/dev/tty1; echo alpha$((40+2))\n")
			s.sees([]string{"alpha42"})
			if letters == nil {
				letters = learn(s.shot())
			}
			s.font = letters
			s.types("echo screen$((40+2)) >/dev/ttyS0\n")
			s.sees([]string{"screen42"})
			s.enters("phase-boot retry\n")
			s.sees(append([]string{"] memory: "}, noCardWords...))
			s.shows(append([]string{"] memory: "}, append(noCardWords, "built-in shell")...)...)
			s.keep(flavour + "-both")
			s.cut()
		})
		if !ok {
			return
		}
		t.Run(flavour+", a screen alone", func(t *testing.T) {
			l.t = t
			s := l.noCard(image, screenAlone...)
			s.font = letters
			s.shows(append([]string{"] modules: "}, append(noCardWords, "built-in shell")...)...) // what was before has left the screen
			s.keep(flavour + "-screen-refused")
			s.types("clear; phase-boot status\n")
			s.shows("clock    20", "no network card", "] memory: ", refused)
			s.keep(flavour + "-screen-status")
			if flavour == "generic" {
				return
			}
			s.plugsIn("52:54:00:aa:bb:01")
			s.shows("phase-boot: target: release " + release)
			s.keep(flavour + "-screen-target")
		})
		t.Run(flavour+", a serial line alone", func(t *testing.T) {
			l.t = t
			s := l.noCard(image, serialAlone...)
			s.sees(append([]string{"] memory: "}, append(noCardWords, "built-in shell", "# ")...))
			s.enters("phase-boot status\n")
			s.sees([]string{"clock    20", "no network card", refused})
			s.keepLog(flavour + "-serial")
			s.cut()
		})
	}
	t.Run("no console at all: the boot goes on by itself", func(t *testing.T) {
		l.t = t
		s := l.noCard(fx.path("local.img"), neither...)
		s.plugsIn("52:54:00:aa:bb:cc") // early or late: nobody can see when
		leases := filepath.Join(l.dir, "leases")
		for end := time.Now().Add(bootDeadline); ; time.Sleep(time.Second) { // dnsmasq announces nothing
			data, err := os.ReadFile(leases)
			if err == nil && strings.Contains(string(data), " 01:52:54:00:aa:bb:cc\n") {
				return // the target asked again: it sends a client identifier, the boot client none
			}
			if time.Now().After(end) {
				t.Fatalf("the machine did not come as far as its target; leases: %q", data)
			}
		}
	})
}
