package machine

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/phaseboot/phaseboot/bootclient/network"
	"github.com/phaseboot/phaseboot/internal/netns"
)

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
