package machine

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The missing hardware that watchFile names.
const (
	waitNIC  = "card" // any wired network interface
	waitLink = "link" // one with a link
)

// missingHardware returns what a failed network step lacked, "" if it is not hardware that may be
// plugged in.
func missingHardware(networkErr error) string {
	switch {
	case errors.Is(networkErr, errNoNIC):
		return waitNIC
	case errors.Is(networkErr, errNoLink):
		return waitLink
	}
	return ""
}

// Watch is `phase-boot watch`, which PID 1 starts while the shells of a failed boot are open. It
// returns nil when the missing network card or link appears. It loads the drivers of devices
// that are plugged in.
func Watch(ctx context.Context) error {
	wanted, err := os.ReadFile(watchFile)
	if err != nil {
		return err
	}
	known, err := wiredInterfaces()
	if err != nil {
		return err
	}
	if m, err := openKernelModules(); err == nil {
		if err := m.hotplug(ctx, make(chan struct{})); err != nil {
			return fmt.Errorf("hotplug: %w", err)
		}
		m.coldplug("/sys") // devices that were plugged in meanwhile
	}
	return waitWired(ctx, string(wanted) == waitLink, known)
}

// wiredInterfaces returns the indexes of the wired interfaces.
func wiredInterfaces() (map[int]bool, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	known := map[int]bool{}
	for _, link := range links {
		if wired(link) {
			known[link.Attrs().Index] = true
		}
	}
	return known, nil
}

// waitWired returns when there is a wired interface or, if linked is set, a wired interface with a
// link. A new interface, which is not in known, ends the wait too: it has no link until the next
// attempt brings it up.
func waitWired(ctx context.Context, linked bool, known map[int]bool) error {
	done := make(chan struct{})
	defer close(done)
	links := make(chan netlink.LinkUpdate, 64)
	opts := netlink.LinkSubscribeOptions{ListExisting: true, ErrorCallback: func(error) {}}
	if err := netlink.LinkSubscribeWithOptions(links, done, opts); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	for {
		select {
		case u, ok := <-links:
			if !ok {
				return errNetlink
			}
			if u.Header.Type == unix.RTM_NEWLINK && wired(u.Link) && (!linked || !known[u.Attrs().Index] || u.IfInfomsg.Flags&unix.IFF_LOWER_UP != 0) {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// RequestRetry is `phase-boot retry`: it asks PID 1 for the next attempt.
func RequestRetry() error {
	if err := unix.Kill(1, unix.SIGHUP); err != nil {
		return fmt.Errorf("PID 1: %w", err)
	}
	return nil
}
