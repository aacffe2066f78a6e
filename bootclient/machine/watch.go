package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What a refused boot may wait for, in watchFile.
const (
	waitCard = "card" // any wired network interface
	waitLink = "link" // one with a link
)

// waitFor is what would help after a network step that failed, "" for nothing that the
// kernel announces.
func waitFor(offline error) string {
	switch {
	case errors.Is(offline, errNoCard):
		return waitCard
	case errors.Is(offline, errNoLink):
		return waitLink
	}
	return ""
}

// Watch is `phase-boot watch`, which PID 1 starts beside the shells of a refused boot: it
// returns nil when the network card or the cable that was missing is there. It loads the
// drivers of devices that are plugged in.
func Watch(ctx context.Context) error {
	wanted, err := os.ReadFile(watchFile)
	if err != nil {
		return err
	}
	known, err := wiredNow()
	if err != nil {
		return err
	}
	dir, err := modulesDir()
	if err != nil {
		return err
	}
	if m, err := openModules(dir); err == nil {
		if err := m.hotplug(ctx, make(chan struct{})); err != nil {
			return fmt.Errorf("hotplug: %w", err)
		}
		m.coldplug("/sys") // what came in the meantime
	}
	return waitWired(ctx, string(wanted) == waitLink, known)
}

// wiredNow lists the wired interfaces by index.
func wiredNow() (map[int]bool, error) {
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

// waitWired returns when there is a wired interface, or one with a link. One that is not
// among the known has none before the next attempt brings it up, and ends the wait too.
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
				return errors.New("netlink: the kernel closed the subscription")
			}
			if u.Header.Type == unix.RTM_NEWLINK && wired(u.Link) && (!linked || !known[u.Attrs().Index] || u.IfInfomsg.Flags&unix.IFF_LOWER_UP != 0) {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// usbWait is how long a device may take to appear: patience where there is a USB
// controller, otherwise the moment that the kernel needs to list what is there.
func usbWait(sys string, patience time.Duration) time.Duration {
	if usb, err := filepath.Glob(filepath.Join(sys, "bus/usb/devices/*")); err == nil && len(usb) > 0 {
		return patience
	}
	return networkGrace
}

// RequestRetry is `phase-boot retry`: it asks PID 1 for the next attempt.
func RequestRetry() error {
	if err := unix.Kill(1, unix.SIGHUP); err != nil {
		return fmt.Errorf("PID 1: %w", err)
	}
	return nil
}
