//go:build machine

package e2e

import (
	"path/filepath"
	"testing"
)

// A machine obeys a mode that its programs do not have: from the loader's menu, from the menu of a failed boot, and in
// the target, which serves the release as the mode says.
func TestMachineModeFromAFile(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	publisher := l.host().publish("--dht", "off")
	dir, _ := addMode(t, l.host())
	m := l.boot(filepath.Join(dir, "showroom.img"))
	m.waitFor([]string{"Phase Boot (showroom", "] command line: mode showroom", "] resolve: stable"})
	m.waitFor(bootMarks(), refused)
	m.waitFor([]string{"phase-boot seed: serving release " + release})

	publisher.stop() // the target alone has the release now
	other := l.boot(l.image("--mode", filepath.Join(dir, "showroom.json"), "--default-mode", "private"))
	other.waitFor([]string{refused, "mode private", menuShown, "> 1 try again now"}, jump)
	other.typeSerial("\x1b[B\r")
	other.waitFor([]string{menuShown, "another boot mode:", "1 internet", "2 edge", "3 local", "4 showroom", menuShown, "> 1 internet"})
	other.typeSerial("4\r")
	other.waitFor([]string{"another boot mode:", "] command line: mode showroom", "] resolve: stable"})
	other.waitFor([]string{"another boot mode:", "] kexec: ", "Linux version", "phase.release=" + release, "plasmd: receipt {"})
}
