// Package netns gives a test a network of its own, where ports are free, nobody hears
// what it shouts and nobody answers. Tests that speak mDNS or to routers, or that change
// the network, begin with
//
//	if !netns.Alone(t) {
//		return
//	}
//
// It needs Linux, and root or the right to make user namespaces.
package netns

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

const mark = "PHASE_TEST_ALONE"

// Alone runs the calling test once more in network and mount namespaces of its own, as
// root there and with nothing but loopback, and reports whether this is that run. An
// ordinary user gets there through a user namespace. The outer run ends when it returns
// false.
func Alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(mark) == t.Name() {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Fatalf("loopback: %v", err)
		}
		return true
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	cmd.SysProcAttr = Attributes()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("in a network of its own: %v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
	return false
}

// Attributes has a command run in network and mount namespaces of its own, as root there;
// loopback is down.
func Attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if uid := os.Getuid(); uid != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	return attr
}
