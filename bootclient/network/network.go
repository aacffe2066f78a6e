package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

const (
	firstAddress = 15 * time.Second       // Wait for the first address, link included
	hurryLink    = 4 * time.Second        // after Hurry: Wait for a link
	hurryAddress = 6 * time.Second        // after Hurry: Wait for the first address
	grace        = 500 * time.Millisecond // Wait for further addresses after the first one
	nicTimeout   = 3 * time.Second        // Wait for a USB network card to appear
	checkEvery   = 30 * time.Second       // between two checks of the paths of several ports
	resubscribe  = time.Second            // before a subscription that the kernel closed is made again
)

// ErrNoNIC is the error for a machine without a wired network interface.
var ErrNoNIC = errors.New("no wired network card; plug one in (the boot then starts by itself), or use an image with its driver: flavour generic has the most drivers")

// ErrNoLink is the error for a machine where no wired interface has a link.
var ErrNoLink = errors.New("no link")

// ErrNetlink is the error for a netlink subscription that ended.
var ErrNetlink = errors.New("netlink: the kernel closed the subscription")

// Config says which ports are used and how. The zero value uses DHCPv4 and IPv6 router
// advertisements on every wired port.
type Config struct {
	IP         []bootargs.IP   // phase.ip=
	VLANs      []bootargs.VLAN // phase.vlan=
	Bonds      []bootargs.Bond // phase.bond=
	Interfaces []string        // phase.interface=: the only ports that are used, none for all

	// Private sends no more than an address needs: random MAC addresses, no IPv6 packet unless DHCPv4
	// gets no answer, no link-local address, and no DHCP option that only the target would use.
	Private bool
	// AskMirror asks DHCP servers for the address of a mirror (option 224).
	AskMirror bool
	// Sources are the sources of the boot as HOST:PORT. With default routes on several ports, the port
	// from which one of them accepts a TCP connection is preferred.
	Sources []string

	Resolv     string                           // path of resolv.conf
	Report     func(format string, args ...any) // of a console line; called from one goroutine
	LoadModule func(name string) error          // nil if the kernel loads modules itself
	NICTimeout time.Duration                    // for the first interface to appear; 0 means 3 s
	Deadline   time.Duration                    // for the first address; 0 means 15 s
}

// A Network is the network of a machine. It works until the context of Start ends.
type Network struct {
	Config
	ctx   context.Context
	calls chan func()   // run by the loop
	done  chan struct{} // closed when the loop has ended
	first chan outcome

	// State of the loop:
	began    time.Time
	ports    map[int]*port // by the index of the interface
	got      []string      // addresses before the outcome
	sent     bool          // the outcome was sent
	deadline <-chan time.Time
	limit    time.Duration    // until deadline, from began
	linkDue  <-chan time.Time // of Hurry, else nil
	owner    *port            // has the static addresses of arguments that name no port
	mirrors  []string
	heard    chan struct{} // closed when there is another mirror
	checking bool          // paths are being checked
	recheck  bool          // check them again after that
	checkDue *time.Timer
}

// An outcome is the result of Wait: the first addresses, or why there is none.
type outcome struct {
	addresses []string
	err       error
}

// Start brings up lo and every wired port, makes the VLANs and bonds, and begins to configure each
// port that has a link. It returns at once.
func Start(ctx context.Context, c Config) (*Network, error) {
	n := &Network{
		Config: c, ctx: ctx, calls: make(chan func()), done: make(chan struct{}), first: make(chan outcome, 1),
		began: time.Now(), limit: cmp.Or(c.Deadline, firstAddress), ports: map[int]*port{}, heard: make(chan struct{}), checkDue: time.NewTimer(checkEvery),
	}
	if lo, err := netlink.LinkByName("lo"); err != nil || netlink.LinkSetUp(lo) != nil {
		return nil, errors.Join(errors.New("lo: cannot be brought up"), err)
	}
	n.removeDevices()
	n.addBonds()
	ev, err := subscribe()
	if err != nil {
		return nil, err
	}
	go func() {
		defer close(n.done)
		n.loop(ev)
	}()
	return n, nil
}

// Wait returns the first addresses, at most half a second after the first of them, or the reason why
// there is none after Config.Deadline. The network is configured further in both cases. If no
// wired interface appears within Config.NICTimeout, the error is ErrNoNIC; it wraps ErrNoLink if no
// interface has a link. Wait may be called once.
func (n *Network) Wait() (summary string, err error) {
	o := <-n.first
	return strings.Join(o.addresses, "; "), o.err
}

// Hurry shortens the wait for the first address, for a boot that can go on without a network: Wait ends
// 4 s after Start if no port has a link then, and after 6 s in any case. The network is configured
// further.
func (n *Network) Hurry() {
	n.ask(func() {
		if n.sent || len(n.got) > 0 || n.limit < hurryAddress {
			return
		}
		n.limit = hurryAddress
		n.deadline, n.linkDue = time.After(time.Until(n.began.Add(hurryAddress))), time.After(time.Until(n.began.Add(hurryLink)))
	})
}

// Mirrors returns the mirrors that DHCP servers have named so far, and a channel that is closed when
// there is another. Any host on the link may have named them.
func (n *Network) Mirrors() (mirrors []string, more <-chan struct{}) {
	n.ask(func() { mirrors, more = slices.Clone(n.mirrors), n.heard })
	return mirrors, more
}

// ask calls f in the loop, or after its end.
func (n *Network) ask(f func()) {
	done := make(chan struct{})
	select {
	case n.calls <- func() { f(); close(done) }:
		<-done
	case <-n.done:
		f()
	}
}

// do has the loop call f, unless ctx ends before.
func (n *Network) do(ctx context.Context, f func()) {
	select {
	case n.calls <- func() {
		if ctx.Err() == nil {
			f()
		}
	}:
	case <-ctx.Done():
	case <-n.done:
	}
}

// try has the loop call f and returns its result, or false if ctx ends before.
func (n *Network) try(ctx context.Context, f func() bool) bool {
	result := make(chan bool, 1)
	n.do(ctx, func() { result <- f() })
	select {
	case ok := <-result:
		return ok
	case <-ctx.Done():
	case <-n.done:
	}
	return false
}

// send sends the outcome, once.
func (n *Network) send(err error) {
	if !n.sent {
		n.sent = true
		n.first <- outcome{n.got, err}
	}
}

// found records an address for the outcome, or reports it after that.
func (n *Network) found(format string, args ...any) {
	summary := fmt.Sprintf(format, args...)
	if n.sent {
		n.Report("network: %s", summary)
		return
	}
	n.got = append(n.got, summary)
}

// loop handles events until the context ends. It sends one outcome.
func (n *Network) loop(ev *events) {
	defer func() { ev.close() }()
	noNIC := time.After(cmp.Or(n.NICTimeout, nicTimeout))
	n.deadline = time.After(n.limit)
	for {
		before, open := len(n.got), true
		select {
		case u, ok := <-ev.links:
			if open = ok; ok {
				n.linkChanged(u)
			}
		case u, ok := <-ev.addrs:
			if open = ok; ok {
				n.addrChanged(u)
			}
		case m := <-ev.routers:
			n.routerMessage(m)
		case f := <-n.calls:
			f()
		case <-n.checkDue.C:
			n.checkDue.Reset(checkEvery)
			n.checkPaths()
		case <-noNIC:
			// on a slow machine, the events of the interfaces that are there may come later
			if len(n.ports) == 0 && (len(n.Interfaces) > 0 || len(wiredPorts()) == 0) {
				n.send(n.noPort())
			}
		case <-n.linkDue:
			if !n.linked() {
				n.limit = hurryLink
				n.send(n.noAddress())
			}
		case <-n.deadline:
			if n.linkDue != nil && !n.linked() { // Hurry came after both of its times
				n.limit = hurryLink
			}
			n.send(n.noAddress())
		case <-n.ctx.Done():
			n.send(n.ctx.Err())
			return
		}
		if !open {
			if ev = n.subscribeAgain(ev); ev == nil {
				return
			}
		}
		if before == 0 && len(n.got) > 0 {
			n.deadline = time.After(grace)
		}
		if len(n.got) > 0 && n.complete() {
			n.send(nil)
		}
	}
}

// linked reports whether a port has a link.
func (n *Network) linked() bool {
	for _, p := range n.ports {
		if p.carrier {
			return true
		}
	}
	return false
}

// complete reports whether no port with a link waits for its first answer.
func (n *Network) complete() bool {
	for _, p := range n.ports {
		if p.carrier && !p.plan.idle() && !p.answered() {
			return false
		}
	}
	return true
}

// subscribeAgain makes the subscriptions again, and tries that until it succeeds. It returns nil if the
// context ends.
func (n *Network) subscribeAgain(old *events) *events {
	old.close()
	for failed := 0; ; {
		select {
		case <-time.After(resubscribe):
		case f := <-n.calls:
			f()
			continue
		case <-n.ctx.Done():
			n.send(n.ctx.Err())
			return nil
		}
		ev, err := subscribe()
		if err == nil {
			return ev
		}
		if failed++; failed == 1 {
			n.Report("network: %v; no change of a link is noticed until that works again", err)
			n.send(ErrNetlink)
		}
	}
}

// noPort returns why there is no port: no wired interface, or none that phase.interface= names.
func (n *Network) noPort() error {
	others := wiredPorts()
	if len(n.Interfaces) == 0 || len(others) == 0 {
		return ErrNoNIC
	}
	return fmt.Errorf("phase.interface=%s: no such network card; there are: %s", strings.Join(n.Interfaces, ","), strings.Join(others, "; "))
}

// noAddress returns why there is no address, by port; nil if there is one. The error wraps ErrNoLink
// if no port has a link.
func (n *Network) noAddress() error {
	if len(n.got) > 0 {
		return nil
	}
	var causes []string
	for _, p := range n.ports {
		if why := p.failure(); why != "" {
			causes = append(causes, p.name+": "+why)
		}
	}
	causes = append(causes, n.missingParents()...)
	if len(causes) == 0 {
		causes = append(causes, "phase.ip= names no port of this machine; there are: "+strings.Join(wiredPorts(), "; "))
	}
	slices.Sort(causes)
	text := fmt.Sprintf("no address after %v: %s", n.limit, strings.Join(causes, "; "))
	if !n.linked() {
		return refusal.New(ErrNoLink, "%s", text)
	}
	return errors.New(text)
}
