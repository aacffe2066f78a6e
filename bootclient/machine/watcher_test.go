package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
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

// A machine without a watchdog boots as before.
func TestAMachineWithoutAWatchdog(t *testing.T) {
	w := newWatchdog("/missing/watchdog", "/missing/state", func(format string, args ...any) { t.Errorf(format, args...) })
	w.allow(time.Minute)
	if pause := w.step(); pause != lookForDevice {
		t.Errorf("looks again after %s", pause)
	}
	if words := w.handOn(); words != "" {
		t.Errorf("handed on: %q", words)
	}
	w.disarm()
}

// A pipe in place of the device: kicks are what is written, and the magic close is a V. The timeouts of
// a device are in internal/e2e.
func TestAWatchdogIsKickedOnlyWhileTheBootMakesProgress(t *testing.T) {
	dir := t.TempDir()
	device := filepath.Join(dir, "watchdog")
	if err := unix.Mkfifo(device, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	kicks := func() string {
		var b [64]byte
		n, err := unix.Read(fd, b[:])
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
		return string(b[:max(n, 0)])
	}
	var said strings.Builder
	w := newWatchdog(device, filepath.Join(dir, "state"), func(format string, args ...any) { fmt.Fprintf(&said, format, args...) })
	w.step()
	if got := kicks(); got != "" {
		t.Errorf("kicked without progress: %q", got)
	}
	w.allow(time.Minute)
	pause := w.step()
	if got := kicks(); got != "\x00" || pause > bootWatchdog/4 {
		t.Errorf("kicked %q, again after %s", got, pause)
	}
	w.allow(-time.Second)
	w.step()
	if got := kicks(); got != "" {
		t.Errorf("kicked although the boot hangs: %q", got)
	}
	if words := w.handOn(); !strings.Contains(words, "stop_on_reboot") || kicks() != "\x00" {
		t.Errorf("handed on: %q", words)
	}
	w.step()
	if got := kicks(); got != "" {
		t.Errorf("after the hand-over: %q", got)
	}
	w.allow(time.Minute) // the jump has failed, and the menu is shown
	w.step()
	if got := kicks(); got != "\x00" {
		t.Errorf("after a jump that failed: %q", got)
	}
	w.disarm()
	w.step()
	if got := kicks(); got != "V" {
		t.Errorf("before the machine is switched off: %q", got)
	}
	if !strings.Contains(said.String(), "the device restarts the machine if the boot hangs") {
		t.Errorf("said %q", said.String())
	}
}
