package machine

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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
