//go:build machine

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// publishSlowly serves the fixtures' release so slowly that a test sees its fetch.
func (h host) publishSlowly() { h.publish("--dht", "off", "--rate", "2MB", "--rate-per-peer", "2MB") }

// The screen shows a boot as lines, or as a view that gives way to a failure and its menu. The serial
// line has the same steps. scripts/screenshots.sh takes the pictures of the documents here.
func TestMachineScreenShowsABoot(t *testing.T) {
	t.Parallel()
	var letters font
	ok := t.Run("full-screen view", func(t *testing.T) {
		l := newLAN(t)
		image := l.image("--flavour", "generic", "--default-mode", "local", "--cmdline", "phase.screen=full")
		s := l.noCard(image, both...)
		s.waitFor(append([]string{"] memory: "}, append(noCardWords, menuShown, "waiting for")...), "Linux version", "console [tty0] enabled")
		s.learn()
		letters = s.font
		s.typeSerial("phase-boot retry\n")
		s.waitFor(append([]string{"phase-boot retry", "] memory: "}, append(noCardWords, menuShown, "waiting for")...))
		s.waitForText(append([]string{"] memory: ", "] modules: "}, append(noCardWords, "1 try again now", "0 kernel messages", menuShown, "any key stops", "waiting for")...)...)
		if text := s.font.text(s.screenshot()); strings.Contains(text, "[  ok  ]") {
			t.Errorf("the view did not give way to the menu:\n%s", text)
		}
		s.saveScreenshot("menu")
		s.typeSerial("0\r")
		s.waitFor([]string{"kernel   [", "before these: see `dmesg` in the shell", menuShown})

		l.host().publishSlowly()
		s.plugCard("52:54:00:aa:bb:02")
		s.waitFor([]string{"the next attempt begins", "] network: eth0 10.55", "] resolve: stable", "] fetch: ", "%, ", " MiB/s, 1 source, ", " left"})
		s.waitForText("Phase Boot", "[  ok  ] network", "eth0 10.55", "[  ok  ] resolve", "[  ..  ] fetch", "[###############", "MiB/s, 1 source", "mdns", "MiB/s", "----")
		s.saveScreenshot("full-screen")
		s.waitFor([]string{"the next attempt begins", "] fetch: 4 artifacts", "] source: ", "] kexec: loaded", "] kexec: starting", "phase-boot: target: release " + release})
	})
	if !ok {
		return
	}
	t.Run("lines", func(t *testing.T) {
		l := newLAN(t)
		l.host().publishSlowly()
		monitor := filepath.Join(l.dir, fmt.Sprintf("qmp%d", l.next))
		s := l.boot(fx.path("local.img"), append(monitorAt(monitor), both...)...).connectMonitor(monitor, letters)
		s.waitFor([]string{"] network: eth0 10.55", "] resolve: stable", "] fetch: ", "%, ", " MiB/s, 1 source, ", " left"}, "Linux version")
		s.waitForText("] network: eth0 10.55", "] resolve: stable", "] fetch: ", "%, ", " MiB/s, 1 source, ", " left")
		s.saveScreenshot("lines")
		s.typeKeys("\x03")
		s.waitFor([]string{refused, "stopped at the console", menuShown})
		s.typeSerial("8\r")
		s.waitFor([]string{"built-in shell", "# "})
		s.typeSerial("echo c >/proc/sysrq-trigger\n") // a panic is shown in spite of quiet
		s.waitFor([]string{"Kernel panic", "Rebooting in 30 seconds"})
		s.waitForText("Kernel panic", "Rebooting in 30 seconds")
	})
}
