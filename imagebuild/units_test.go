package imagebuild

import (
	"os/exec"
	"testing"
)

// The daemon of the target, which runs jobs of others, is separated from the rest of the system: systemd rates its
// exposure at most 2.0 of 10.
func TestFormatTheUnitOfTheDaemonIsHardened(t *testing.T) {
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=20", "rootfs/layer/etc/systemd/system/plasmd.service").CombinedOutput()
	if err != nil {
		t.Errorf("%v (scripts/deps-check.sh --install brings systemd-analyze)\n%s", err, out)
	}
}
