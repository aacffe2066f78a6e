package imagebuild

import (
	"os/exec"
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
