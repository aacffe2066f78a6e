package imagebuild

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The daemons of the target, of which one runs jobs of others and one writes to the cache, are separated from the rest
// of the system: systemd rates their exposure at most 2.0 of 10.
func TestFormatTheUnitsOfTheDaemonsAreHardened(t *testing.T) {
	for _, unit := range []string{"plasmd.service", "phase-watch.service"} {
		out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=20", "rootfs/layer/etc/systemd/system/"+unit).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v (scripts/deps-check.sh --install brings systemd-analyze)\n%s", unit, err, out)
		}
	}
}

// The lines that another program has written to /run/reboot-required.pkgs are in the list of the unit after its start.
func TestTheWatchUnitKeepsLinesOfOthers(t *testing.T) {
	unit, err := os.ReadFile("rootfs/layer/etc/systemd/system/phase-watch.service")
	if err != nil {
		t.Fatal(err)
	}
	run := t.TempDir()
	list := filepath.Join(run, "reboot-required.pkgs")
	if err := errors.Join(os.Mkdir(filepath.Join(run, "phase-watch"), 0o755), os.WriteFile(list, []byte("libc6\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // and again at a restart
		for line := range strings.Lines(string(unit)) {
			command, ok := strings.CutPrefix(line, "ExecStartPre=+/bin/")
			if !ok || !strings.Contains(command, "reboot-required") {
				continue
			}
			command = strings.ReplaceAll(strings.ReplaceAll(command, "$$", "$"), "/run", run)
			if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v, %s", command, err, out)
			}
		}
	}
	if data, err := os.ReadFile(list); err != nil || string(data) != "libc6\n" {
		t.Errorf("%q, %v", data, err)
	}
}
