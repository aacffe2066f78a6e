// Package netns runs a test in network and mount namespaces of its own, where all ports are free
// and no other host is reachable. Tests that use mDNS, ask a router for ports or change the
// network begin with
//
//	if !netns.Inside(t) {
//		return
//	}
//
// NewLAN gives such a test a LAN with cables and a DHCP server.
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

const insideEnv = "PHASE_TEST_ALONE"

// Inside reports whether the calling test runs inside namespaces of its own. If not, it first runs
// the test there in a new process, as root and with only a loopback interface, and fails the test
// if that run fails; the caller must then return. For an ordinary user it also makes a user
// namespace.
func Inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) == t.Name() {
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
	cmd.Env = append(os.Environ(), insideEnv+"="+t.Name())
	cmd.SysProcAttr = Attributes()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("in a network of its own: %v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
	return false
}

// Attributes returns the attributes of a process in network and mount namespaces of its own, in which
// it is root and loopback is down.
func Attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if uid := os.Getuid(); uid != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	return attr
}
