package netns

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A LAN is a network namespace with the other ends of the cables of a machine, which is the
// namespace of the test.
type LAN struct {
	t   *testing.T
	pid int
}

// NewLAN makes a LAN for a test that runs in namespaces of its own.
func NewLAN(t *testing.T) *LAN {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	l := &LAN{t: t}
	l.background(cmd)
	l.pid = cmd.Process.Pid
	l.Run("ip", "link", "set", "lo", "up")
	return l
}

// background runs a command until the end of the test, or until stop is called.
func (l *LAN) background(cmd *exec.Cmd) (stop func()) {
	l.t.Helper()
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	l.t.Cleanup(stop)
	return stop
}

// Command returns a command that runs in the LAN.
func (l *LAN) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(l.pid), "-n", name}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	return cmd
}

// Run runs a command in the LAN. A failure ends the test.
func (l *LAN) Run(name string, args ...string) {
	l.t.Helper()
	if out, err := l.Command(name, args...).CombinedOutput(); err != nil {
		l.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// Do calls f on a thread in the LAN. Sockets that f opens stay there.
func (l *LAN) Do(f func()) {
	l.t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		l.t.Fatal(err)
	}
	defer own.Close()
	there, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", l.pid))
	if err != nil {
		l.t.Fatal(err)
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		l.t.Fatalf("setns: %v", err)
	}
	defer func() {
		if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(err) // the thread must not be used by another test
		}
	}()
	f()
}

// Cable connects portN of the machine with srvN of the LAN, which has 10.77.N.1/24 and is down. The
// hardware address of portN is 02:00:00:00:01:0N.
func (l *LAN) Cable(n int) (port string) {
	l.t.Helper()
	port, far := fmt.Sprintf("port%d", n), fmt.Sprintf("srv%d", n)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = port
	attrs.HardwareAddr = net.HardwareAddr{0x02, 0, 0, 0, 1, byte(n)}
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: far, PeerNamespace: netlink.NsPid(l.pid)}
	if err := netlink.LinkAdd(veth); err != nil {
		l.t.Fatal(err)
	}
	l.Run("ip", "addr", "add", fmt.Sprintf("10.77.%d.1/24", n), "dev", far)
	return port
}

// Plug brings up the LAN's end of a cable, Unplug takes it down.
func (l *LAN) Plug(n int) {
	l.t.Helper()
	l.Run("ip", "link", "set", fmt.Sprintf("srv%d", n), "up")
}

// Unplug takes the LAN's end of a cable down.
func (l *LAN) Unplug(n int) {
	l.t.Helper()
	l.Run("ip", "link", "set", fmt.Sprintf("srv%d", n), "down")
}

// Dnsmasq runs a DHCP server in the LAN and returns the path of its log file, and a function that
// ends it.
func (l *LAN) Dnsmasq(options ...string) (log string, stop func()) {
	l.t.Helper()
	if _, err := exec.LookPath("dnsmasq"); err != nil {
		if _, err := os.Stat("/usr/sbin/dnsmasq"); err != nil {
			l.t.Fatal("dnsmasq is missing; run: apt-get install dnsmasq-base")
		}
	}
	dir := l.t.TempDir()
	log = filepath.Join(dir, "log")
	cmd := l.Command("dnsmasq", append([]string{
		"--keep-in-foreground", "--conf-file=/dev/null", "--user=", "--group=", "--port=0", "--no-ping", "--log-dhcp",
		"--dhcp-authoritative", "--log-facility=" + log, "--dhcp-leasefile=" + filepath.Join(dir, "leases"), "--pid-file=",
	}, options...)...)
	cmd.Stderr = os.Stderr
	stop = l.background(cmd)
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // until it serves
		if text, err := os.ReadFile(log); err == nil && (strings.Contains(string(text), "IP range") || strings.Contains(string(text), "router advertisement on")) {
			return log, stop
		}
		if time.Now().After(end) {
			l.t.Fatal("dnsmasq did not start")
		}
	}
}
