package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/phaseboot/phaseboot/bootclient/network"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/netns"
)

// The watcher must not begin an attempt with a release that cannot be booted, and must begin one with a
// release whose source was away for a while.
func TestTheReleaseThatFailedIsRemembered(t *testing.T) {
	r := newReport(io.Discard)
	before := r.Release()
	r.SetRelease(report.Release{Channel: "stable", Arch: "x86_64", Version: "1.2", Number: 7, Timestamp: 9})
	after := r.Release()
	const name = "stable/x86_64 1.2, version 7"
	for cause, tt := range map[string]struct {
		found *report.Release
		err   error
		want  string
	}{
		"the kernel is refused":        {after, errors.New("kexec: not a kernel"), name},
		"too little memory":            {after, fmt.Errorf("release: %w", errMemory), name},
		"wrong bytes":                  {after, fmt.Errorf("fetch: %w", cas.ErrCorrupt), name},
		"the publisher is gone":        {after, fmt.Errorf("fetch: %w", cas.ErrUnreachable), ""},
		"a mirror has not all of it":   {after, fmt.Errorf("fetch: %w", fs.ErrNotExist), ""},
		"a person stopped the attempt": {after, fmt.Errorf("stopped: %w", context.Canceled), ""},
		"no release was found":         {before, errors.New("no source"), ""},
		"no release, and no memory":    {nil, errMemory, ""},
	} {
		t.Run(cause, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "watch")
			writeWatchState(file, watchState{Missing: waitLink, Failed: failedRelease(tt.found, tt.err)})
			if got := readWatchState(file); got != (watchState{waitLink, tt.want}) {
				t.Errorf("got %+v, want %q", got, tt.want)
			}
		})
	}
	if got := readWatchState("/missing"); got != (watchState{}) {
		t.Errorf("without a file: %+v", got)
	}
}

// A change of the clock cannot be tested without changing the clock of this host: internal/e2e does.
func TestTheWaitForTheClockEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- waitClock(ctx) }()
	select {
	case err := <-ended:
		t.Fatalf("ended at once: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestAMissingNetworkCardIsReportedAndANewOneEndsTheWait(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	c := network.Config{Resolv: filepath.Join(t.TempDir(), "resolv.conf"), Report: t.Logf, NICTimeout: time.Millisecond}
	n, err := network.Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if summary, err := n.Wait(); !errors.Is(err, network.ErrNoNIC) || missingHardware(err) != waitNIC {
		t.Fatalf("%q, %v", summary, err)
	}
	stop()
	ctx, stop = context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	for _, linked := range []bool{false, true} {
		came := make(chan error, 1)
		l := netns.NewLAN(t)
		if linked {
			l.Cable(1)
		}
		known, err := wiredInterfaces()
		if err != nil || len(known) != 0 && !linked {
			t.Fatal(known, err)
		}
		go func() { came <- waitWired(ctx, network.Config{}, linked, known) }()
		if !linked {
			l.Cable(1)
		}
		if linked {
			link, err := netlink.LinkByName("port1")
			if err != nil || netlink.LinkSetUp(link) != nil {
				t.Fatal(err)
			}
			l.Plug(1)
		}
		if err := <-came; err != nil {
			t.Errorf("linked %t: %v", linked, err)
		}
		if err := exec.Command("ip", "link", "del", "port1").Run(); err != nil {
			t.Fatal(err)
		}
	}
}

// A new network card shows no link, because it is down until the next attempt.
func TestANewCardEndsTheWaitForALink(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	l.Cable(1)
	known, err := wiredInterfaces()
	if err != nil || len(known) == 0 {
		t.Fatal(known, err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	came := make(chan error, 1)
	go func() { came <- waitWired(ctx, network.Config{}, true, known) }()
	l.Cable(2)
	if err := <-came; err != nil {
		t.Error(err)
	}
}

func TestAPortThatIsNotUsedDoesNotEndTheWait(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	l := netns.NewLAN(t)
	l.Cable(1)
	l.Cable(2)
	for _, name := range []string{"port1", "port2"} {
		if link, err := netlink.LinkByName(name); err != nil || netlink.LinkSetUp(link) != nil {
			t.Fatal(name, err)
		}
	}
	known, err := wiredInterfaces()
	if err != nil || len(known) != 2 {
		t.Fatal(known, err)
	}
	l.Plug(1) // has a link before the wait begins, and during it
	came := make(chan error, 1)
	go func() { came <- waitWired(t.Context(), network.Config{Interfaces: []string{"port2"}}, true, known) }()
	l.Cable(3)
	select {
	case err := <-came:
		t.Fatalf("ended by another port: %v", err)
	case <-time.After(time.Second):
	}
	l.Plug(2)
	if err := <-came; err != nil {
		t.Error(err)
	}
}
