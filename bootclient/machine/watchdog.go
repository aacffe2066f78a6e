package machine

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Timeouts of the hardware watchdog.
const (
	bootWatchdog = 60 * time.Second // during the boot
	// targetWatchdog is the time that the target has to open the watchdog: that of a slow start of
	// systemd. It is the longest that all common devices can count.
	targetWatchdog = 5 * time.Minute
	lookForDevice  = 5 * time.Second // between looks for the device, whose driver is loaded in the boot
)

// A watchdog is the machine's hardware watchdog, if it has one. PID 1 kicks it while the boot makes
// progress, so that a machine that hangs restarts. Its methods are safe for concurrent use.
type watchdog struct {
	path  string // of the device
	state string // file for words about it in the report
	say   func(format string, args ...any)

	mu      sync.Mutex
	file    *os.File
	name    string
	timeout time.Duration
	until   time.Time // it is kicked until then
	started sync.Once
	handed  bool // the target kicks it, if the jump succeeds
	off     bool
}

func newWatchdog(path, state string, say func(format string, args ...any)) *watchdog {
	return &watchdog{path: path, state: state, say: say}
}

// open opens the watchdog as soon as there is one, and kicks it from then on.
func (w *watchdog) open() { w.started.Do(func() { go w.run() }) }

// allow says that the boot makes progress: the watchdog is kicked for the next d.
func (w *watchdog) allow(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.until = time.Now().Add(d)
	if w.handed { // the jump has failed
		w.handed = false
		w.setTimeout(bootWatchdog)
	}
}

func (w *watchdog) run() {
	for {
		time.Sleep(w.step())
	}
}

// step opens or kicks the watchdog, and returns the pause until the next step.
func (w *watchdog) step() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.off || w.handed {
		return lookForDevice
	}
	if w.file == nil && !w.start() {
		return lookForDevice
	}
	if time.Now().Before(w.until) {
		w.kick()
	}
	return max(w.timeout/6, time.Second)
}

// start opens the device, which starts it, and sets its timeout.
func (w *watchdog) start() bool {
	f, err := os.OpenFile(w.path, os.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false // there is none, or its driver is not loaded yet
	}
	w.file, w.name = f, watchdogName(f)
	w.setTimeout(bootWatchdog)
	words := w.name + "; PID 1 kicks it until the jump"
	if status, err := unix.IoctlGetInt(int(f.Fd()), unix.WDIOC_GETBOOTSTATUS); err == nil && status&unix.WDIOF_CARDRESET != 0 {
		words += "; it has restarted this machine, because the boot or the system before hung"
	}
	_ = os.WriteFile(w.state, []byte(words), 0o644)
	w.say("watchdog: %s restarts the machine if the boot hangs for %s", w.name, w.timeout)
	return true
}

// kick restarts the countdown of the device.
func (w *watchdog) kick() { _, _ = w.file.Write([]byte{0}) }

// setTimeout sets the timeout, or the longest shorter one that the device can count.
func (w *watchdog) setTimeout(wanted time.Duration) {
	fd := int(w.file.Fd())
	for d := wanted; d >= time.Second; d /= 2 {
		if unix.IoctlSetPointerInt(fd, unix.WDIOC_SETTIMEOUT, int(d/time.Second)) == nil {
			break
		}
	}
	w.timeout = bootWatchdog / 4 // of a device that does not say
	if seconds, err := unix.IoctlGetInt(fd, unix.WDIOC_GETTIMEOUT); err == nil && seconds > 0 {
		w.timeout = time.Duration(seconds) * time.Second
	}
}

// handOn gives the target time to open the watchdog, and returns words for the console, "" without a
// watchdog. The device stays armed, unless its driver stops it at the jump.
func (w *watchdog) handOn() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file == nil {
		return ""
	}
	w.setTimeout(targetWatchdog)
	w.kick()
	w.handed = true
	if keepsRunning("/sys") {
		return fmt.Sprintf("%s stays on: the target must open it within %s", w.name, w.timeout)
	}
	return w.name + " is stopped by its driver at the jump, if the driver can do that; watchdog.stop_on_reboot=0 on the boot's command line keeps it on"
}

// disarm stops the watchdog, before the machine is switched off by a person.
func (w *watchdog) disarm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.off = true
	if w.file != nil {
		_, _ = w.file.Write([]byte("V"))
		w.file.Close()
		w.file = nil
	}
}

// keepsRunning reports whether the kernel was told to keep the watchdog running during a jump. sys is
// the mount point of sysfs.
func keepsRunning(sys string) bool {
	data, err := os.ReadFile(sys + "/module/watchdog/parameters/stop_on_reboot")
	return err == nil && strings.TrimSpace(string(data)) == "0"
}

// watchdogName returns the name that the driver gives to the device.
func watchdogName(f *os.File) string {
	info, err := unix.IoctlGetWatchdogInfo(int(f.Fd()))
	if err != nil {
		return "the device"
	}
	if name := unix.ByteSliceToString(info.Identity[:]); name != "" {
		return name
	}
	return "the device"
}
