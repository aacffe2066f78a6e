package machine

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// insideNamespace runs the calling test once more in network and mount
// namespaces of its own, as root there, and reports whether this is that run. An
// ordinary user gets there through a user namespace. The outer run ends when it
// returns false.
func insideNamespace(t *testing.T) bool {
	t.Helper()
	const mark = "PHASE_TEST_INSIDE"
	if os.Getenv(mark) == t.Name() {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("inside the namespace: %v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
	return false
}
