package network

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/netns"
)

const (
	range1 = "--dhcp-range=10.77.1.50,10.77.1.60,255.255.255.0,1h"
	range2 = "--dhcp-range=10.77.2.50,10.77.2.60,255.255.255.0,1h"
)

// A started network with its console lines.
type started struct {
	*Network
	t    *testing.T
	stop context.CancelFunc

	mu      sync.Mutex
	lines   []string
	changed chan struct{}
}

// start starts a network with the arguments of a command line.
func start(t *testing.T, cmdline string, change func(*Config)) *started {
	t.Helper()
	args, err := bootargs.Check(cmdline)
	if err != nil {
		t.Fatal(err)
	}
	s := &started{t: t, changed: make(chan struct{})}
	c := Config{
		IP: args.IP, VLANs: args.VLANs, Bonds: args.Bonds, Interfaces: args.Interfaces,
		Resolv: filepath.Join(t.TempDir(), "resolv.conf"), Report: s.report,
	}
	if change != nil {
		change(&c)
	}
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	if s.Network, err = Start(ctx, c); err != nil {
		t.Fatal(err)
	}
	s.stop = func() {
		stop()
		<-s.done
	}
	t.Cleanup(s.stop)
	return s
}

func (s *started) report(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
	s.t.Log(s.lines[len(s.lines)-1])
	close(s.changed)
	s.changed = make(chan struct{})
}

// console waits until the console has shown a line with all texts.
func (s *started) console(texts ...string) {
	s.t.Helper()
	deadline := time.After(time.Minute)
	for {
		s.mu.Lock()
		shown := slices.ContainsFunc(s.lines, func(line string) bool {
			return !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) })
		})
		changed := s.changed
		s.mu.Unlock()
		if shown {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			s.t.Fatalf("no line with %q on the console", texts)
		}
	}
}

// wait expects an address.
func (s *started) wait() (summary string) {
	s.t.Helper()
	summary, err := s.Wait()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Log(summary)
	return summary
}

func (s *started) resolvConf() string {
	s.t.Helper()
	data, err := os.ReadFile(s.Resolv)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data)
}

// route checks over which gateway and interface the kernel sends.
func (s *started) route(to, via, port string) {
	s.t.Helper()
	routes, err := netlink.RouteGet(net.ParseIP(to))
	if err != nil || len(routes) != 1 {
		s.t.Fatalf("route to %s: %v, %v", to, routes, err)
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil || !routes[0].Gw.Equal(net.ParseIP(via)) || link.Attrs().Name != port {
		s.t.Errorf("route to %s: %v, want %s on %s", to, routes[0], via, port)
	}
}

// state returns the state of the only interface with a name.
func (s *started) state(name string) Interface {
	s.t.Helper()
	st, err := s.State()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, i := range st.Interfaces {
		if i.Name == name {
			return i
		}
	}
	s.t.Fatalf("no interface %s in %+v", name, st)
	return Interface{}
}

// received6 returns how many IPv6 packets of a kind an interface of the LAN has received.
func received6(t *testing.T, l *netns.LAN, name, counter string) string {
	t.Helper()
	out, err := l.Command("cat", "/proc/thread-self/net/dev_snmp6/"+name).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == counter {
			return f[1]
		}
	}
	t.Fatalf("no %s in %s", counter, out)
	return ""
}

// waitForText waits until a file contains a text, and returns it.
func waitForText(t *testing.T, file, text string) string {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		data, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(data), text) {
			return string(data)
		}
		if time.Now().After(end) {
			t.Fatalf("no %q in %s, %v", text, data, err)
		}
	}
}

// plugged begins a parallel test of a LAN in a network namespace, with one port of the machine plugged in. l is nil in
// the process that only waits for the test in the namespace.
func plugged(t *testing.T) (l *netns.LAN, port string) {
	t.Helper()
	t.Parallel()
	if !netns.Inside(t) {
		return nil, ""
	}
	l = netns.NewLAN(t)
	port = l.Cable(1)
	l.Plug(1)
	return l, port
}
