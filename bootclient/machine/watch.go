package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/network"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/manifest"
)

// watchFile tells phase-boot search what the last attempt lacked.
const watchFile = "/run/phase-boot.watch"

// Missing hardware.
const (
	waitNIC  = "card" // any wired network interface
	waitLink = "link" // one with a link
)

// A watchState says why the last attempt failed, as far as the watcher can notice that it got well.
type watchState struct {
	Missing string `json:"missing,omitempty"` // waitNIC, waitLink or ""
	Failed  string `json:"failed,omitempty"`  // a release that cannot be booted; "" if any can
}

const (
	// searchRound is how long one search runs before all sources are dialled anew.
	searchRound = 10 * time.Minute
	// roundPause is the pause after a search that ended early; it doubles up to roundMaxPause.
	roundPause    = 2 * time.Second
	roundMaxPause = time.Minute
)

// missingHardware returns what a failed network step lacked, "" if it is not hardware that may be plugged in.
func missingHardware(networkErr error) string {
	switch {
	case errors.Is(networkErr, network.ErrNoNIC):
		return waitNIC
	case errors.Is(networkErr, network.ErrNoLink):
		return waitLink
	}
	return ""
}

// failedRelease returns the name of the release that was found, if err will not pass by itself: "" if a source was
// not reachable or had not everything.
func failedRelease(found *report.Release, err error) string {
	if errors.Is(err, cas.ErrUnreachable) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, context.Canceled) {
		return ""
	}
	return reportedRelease(found)
}

// reportedRelease returns the name of the release that was found, "" if there is none.
func reportedRelease(found *report.Release) string {
	if found == nil {
		return ""
	}
	return releaseName(found.Channel, found.Arch, found.Version, found.Number)
}

func releaseName(channel, arch, version string, number int64) string {
	return fmt.Sprintf("%s/%s %s, version %d", channel, arch, version, number)
}

func writeWatchState(file string, s watchState) {
	if data, err := json.Marshal(s); err == nil {
		_ = os.WriteFile(file, data, 0o644) // without it the watcher looks for any release
	}
}

func readWatchState(file string) (s watchState) {
	if data, err := os.ReadFile(file); err == nil {
		_ = json.Unmarshal(data, &s)
	}
	return s
}

// Search is `phase-boot search`, which PID 1 runs behind the menu of a failed boot. It returns nil when
// another attempt can succeed: the missing network card or link is there, the clock was set, or a
// release was found that is not the one that failed. It loads the drivers of devices that are plugged
// in, and writes nothing.
func Search(ctx context.Context, choice Choice) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b := &boot{report: newReport(os.Stdout), choice: choice, newDisk: make(chan struct{}, 1), entropy: startEntropy()}
	defer leaveCache(cacheLock, unmountCache)
	state := readWatchState(watchFile)
	known, err := wiredInterfaces()
	if err != nil {
		return err
	}
	if m, err := openKernelModules(); err == nil {
		if err := m.hotplug(ctx, b.newDisk); err != nil {
			return fmt.Errorf("hotplug: %w", err)
		}
		m.coldplug("/sys") // devices that were plugged in meanwhile
	}
	results, left := make(chan error, 2), make(chan struct{})
	go func() { results <- waitClock(ctx) }()
	go func() {
		defer close(left)
		results <- b.wait(ctx, state, known)
	}()
	err = <-results
	if errors.Is(err, errNoTimer) {
		err = <-results
	}
	cancel()
	select {
	case <-left: // leases are given back
	case <-time.After(leaveLimit): // a device does not answer
	}
	return err
}

// leaveLimit is how long the watcher may take to give its leases back.
const leaveLimit = 2 * time.Second

// wait waits for hardware if that was missing, else for a release.
func (b *boot) wait(ctx context.Context, state watchState, known map[int]bool) error {
	if state.Missing != "" {
		b.report.Say("waiting for %s", map[string]string{waitNIC: "a wired network card", waitLink: "a link on a wired network card"}[state.Missing])
		line, _ := os.ReadFile("/proc/cmdline") // without it every port counts
		b.args = bootargs.Parse(string(line))
		return waitWired(ctx, b.networkConfig(), state.Missing == waitLink, known)
	}
	_, err := b.memory(ctx)
	if err == nil {
		_, err = b.commandLine(ctx)
	}
	if err != nil {
		b.report.Say("waiting: %v", err) // only a person can correct it, and a search needs memory too
		<-ctx.Done()
		return ctx.Err()
	}
	if _, err := b.waitEntropy(ctx); err != nil {
		return err
	}
	if b.config.Mode.Cache == "rw" {
		b.config.Mode.Cache = "ro"
	}
	unlock, err := lockCache(ctx, cacheLock)
	if err == nil {
		_, err = b.cache(ctx)
		unlock()
	}
	if err != nil {
		b.config.Cache = "" // the attempt reports it
	}
	end, err := b.waitNetwork(ctx)
	if err != nil {
		return err
	}
	defer end()
	defer b.stopTor()
	for n := 0; ; n++ {
		if err := b.keepTor(ctx); err != nil {
			b.report.Say("waiting: Tor: %v", err)
		} else if b.search(ctx, state.Failed) {
			return nil
		}
		if err := pause(ctx, n); err != nil {
			return err
		}
	}
}

// pause waits before try n+1.
func pause(ctx context.Context, n int) error {
	select {
	case <-time.After(min(roundPause<<min(n, 8), roundMaxPause)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waitNetwork configures the network until there is an address. It begins anew only after searchRound or an
// error: each time takes the requests of all ports back and, in a mode with random hardware addresses,
// costs the DHCP server one more lease. end gives such a lease back, and stops what goes on in the
// background.
func (b *boot) waitNetwork(ctx context.Context) (end func(), err error) {
	b.firstAddress = searchRound
	b.report.Say("waiting for an address")
	for n := 0; ; n++ {
		try, cancel := context.WithCancel(ctx)
		summary, err := b.network(try)
		end := func() {
			if b.net != nil && b.config.Mode.RandomMAC {
				_, _ = b.net.Leave() // without a word: the last line says why the watcher ends
			}
			cancel()
		}
		if err == nil {
			b.report.Say("network: %s", summary)
			return end, nil
		}
		end()
		b.report.Say("waiting: network: %v", err)
		if err := pause(ctx, min(n, 2)); err != nil {
			return nil, err
		}
	}
}

// search searches once. It reports whether there is a release that is not the one that failed.
func (b *boot) search(ctx context.Context, failed string) bool {
	b.config.Timeout, b.config.Patience = searchRound, searchRound
	b.identify() // the failed release is the one for this machine
	v, err := bootclient.Search(ctx, b.config)
	switch {
	case err != nil:
		b.report.Say("waiting: %v", err)
	case nameOf(v) == failed:
		b.report.Say("waiting for another release than %s", failed)
	default:
		b.report.Say("found %s", nameOf(v))
		return true
	}
	return false
}

func nameOf(v *manifest.Verified) string {
	r := v.Release()
	return releaseName(r.Channel, r.Arch, r.Version, r.Number)
}

// wiredInterfaces returns the indexes of the wired interfaces.
func wiredInterfaces() (map[int]bool, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	known := map[int]bool{}
	for _, link := range links {
		if network.Wired(link) {
			known[link.Attrs().Index] = true
		}
	}
	return known, nil
}

// waitWired returns when there is a wired interface that c uses or, if linked is set, one with a link. A
// new interface, which is not in known, ends the wait too: it has no link until the next attempt
// brings it up.
func waitWired(ctx context.Context, c network.Config, linked bool, known map[int]bool) error {
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
				return network.ErrNetlink
			}
			if u.Header.Type == unix.RTM_NEWLINK && c.Uses(u.Link) && (!linked || !known[u.Attrs().Index] || u.IfInfomsg.Flags&unix.IFF_LOWER_UP != 0) {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// errNoTimer is the error for a kernel that does not say when its clock is set.
var errNoTimer = errors.New("timer: the kernel does not report changes of the clock")

// waitClock returns nil when somebody sets the clock (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET).
func waitClock(ctx context.Context) error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return errors.Join(errNoTimer, err)
	}
	timer := os.NewFile(uintptr(fd), "timerfd")
	close := sync.OnceFunc(func() { timer.Close() })
	defer close()
	never := unix.ItimerSpec{Value: unix.Timespec{Sec: 1 << 33}}
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil); err != nil {
		return errors.Join(errNoTimer, err)
	}
	stop := context.AfterFunc(ctx, close)
	defer stop()
	var b [8]byte
	switch _, err = timer.Read(b[:]); {
	case errors.Is(err, unix.ECANCELED):
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return errors.Join(errNoTimer, err)
}

// RequestRetry is `phase-boot retry`: it asks PID 1 for the next attempt.
func RequestRetry() error {
	if err := unix.Kill(1, unix.SIGHUP); err != nil {
		return fmt.Errorf("PID 1: %w", err)
	}
	return nil
}
