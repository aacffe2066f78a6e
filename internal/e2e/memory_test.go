//go:build machine

package e2e

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"
)

// A machine with too little memory says how much is missing. The kernel's OOM killer never runs.
func TestMachineWithLittleMemoryStartsOrSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	l.host().publish("--dht", "off")
	for _, size := range []string{"192", "256", "320", "384", "512"} {
		t.Run(size+" MiB", func(t *testing.T) {
			on := *l
			on.t = t
			disk := filepath.Join(t.TempDir(), "disk.img")
			must(t, "cp", "--sparse=always", fx.path("local.img"), disk)
			m := on.startQEMUWith([]string{"MEM=" + size, "NET=tap:" + on.tap()}, disk)
			l.next = on.next
			got := m.waitForOne([]string{"too little memory: ", "phase-boot: target: release "}, "Out of memory", "oom-kill", "Kernel panic", "boot process: killed")
			if got == "too little memory: " {
				m.waitFor([]string{"too little memory: ", " are missing: ", "give the machine ", menuShown}, "Out of memory", "Kernel panic")
			} else {
				m.waitFor([]string{"systemd[1]"}, "Out of memory", "Kernel panic")
			}
			text, _ := m.console.since(0)
			for line := range bytes.Lines(text) {
				if bytes.Contains(line, []byte("] memory: ")) || bytes.Contains(line, []byte("boot refused")) {
					t.Logf("%s", bytes.TrimSpace(line))
				}
			}
			m.powerOff()
		})
	}
}

// waitForOne waits until the console shows one of the texts, and returns it. It consumes nothing.
func (m *machine) waitForOne(texts []string, forbidden ...string) string {
	m.t.Helper()
	deadline := time.After(bootDeadline)
	for {
		said, changed := m.console.since(0)
		m.failOn(said, forbidden)
		for _, text := range texts {
			if bytes.Contains(said, []byte(text)) {
				return text
			}
		}
		select {
		case <-changed:
		case <-m.ended:
			m.t.Fatalf("the machine ended before one of %q", texts)
		case <-deadline:
			m.t.Fatalf("none of %q on the console after %v", texts, bootDeadline)
		}
	}
}
