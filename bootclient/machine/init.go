package machine

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/machine/display"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/internal/bootargs"
)

// Files of the initramfs that configure the machine. phase-image writes them.
const (
	roleFile    = "/etc/phase/role"       // boot or target
	rootFile    = "/etc/phase/root.json"  // the root of trust (boot role)
	channelFile = "/etc/phase/channel"    // default of phase.channel= (boot role)
	modesDir    = "/etc/phase/modes"      // boot modes, one file each (boot role)
	buildFile   = "/etc/phase/build-time" // of the image, in Unix seconds (boot role)
	modulesFile = "/etc/phase/modules"    // modules to load at start, one a line
)

// Init is PID 1 of both roles. It never returns, because the kernel panics when PID 1 ends:
// after every error and every panic it shows a menu on each console and then tries again.
func Init() {
	debug.SetGCPercent(20)
	p := &pid1{
		out:  &consoles{paths: func() []string { return consolePaths("/proc", "/sys", "/dev") }},
		kids: newChildren(true, nil),
	}
	p.report = newReport(p.out)
	p.dog = newWatchdog("/dev/watchdog", watchdogFile, p.report.Say)
	p.retry = handleSignals(p.dog.disarm)
	for {
		err := recoverPanic(p.out, p.start)
		if err := recoverPanic(p.out, func() error { return p.rescue(err) }); err != nil {
			time.Sleep(firstPause) // a fault of the menu must not become a tight loop
		}
	}
}

// pid1 is the state of PID 1.
type pid1 struct {
	out    *consoles
	report *report.Report
	kids   *children
	dog    *watchdog
	retry  <-chan struct{} // requests of phase-boot retry
	role   string
	choice Choice
	wait   waits
}

// start mounts the base file systems and runs the role. It returns only when the role failed.
func (p *pid1) start() error {
	p.dog.allow(maxSilence)
	p.out.begin()
	err := runSteps(context.Background(), p.report, []step{
		{"mount", required, func(context.Context) (string, error) { return mountAll(baseMounts) }},
		{"console", optional, func(context.Context) (string, error) {
			p.out.use(screenForm("/proc"))
			return p.out.refresh(), nil
		}},
	})
	if err != nil {
		return err
	}
	role, err := os.ReadFile(roleFile)
	if err != nil {
		return fmt.Errorf("role: %w; the file must contain boot or target", err)
	}
	switch p.role = strings.TrimSpace(string(role)); p.role {
	case "boot":
		p.dog.open()
		return p.supervise()
	case "target":
		err := target(p.out, p.report)
		return withAdvice(err, targetAdvice)
	default:
		return fmt.Errorf("role %.20q: unknown; %s must contain boot or target", p.role, roleFile)
	}
}

// screenForm returns the form that phase.screen= names.
func screenForm(proc string) display.Form {
	line, _ := os.ReadFile(filepath.Join(proc, "cmdline")) // an empty one has the default
	return display.FormOf(bootargs.Parse(string(line)).Screen)
}

// recoverPanic calls f. It turns a panic into an error and prints the stack trace.
func recoverPanic(out io.Writer, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			out.Write(debug.Stack())
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return f()
}

// handleSignals handles the signals of PID 1: those of busybox's reboot, halt and poweroff, and
// SIGHUP, which phase-boot retry sends. All of them get a handler, so that none ends PID 1; an
// ignored signal would stay ignored in the shell.
func handleSignals(disarm func()) (retry <-chan struct{}) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE, unix.SIGALRM)
	retries := make(chan struct{}, 1)
	go func() {
		for s := range signals {
			switch s {
			case unix.SIGHUP:
				requestRetry(retries)
			case unix.SIGTERM:
				powerOff(unix.LINUX_REBOOT_CMD_RESTART)
			case unix.SIGUSR1:
				disarm()
				powerOff(unix.LINUX_REBOOT_CMD_HALT)
			case unix.SIGUSR2:
				disarm()
				powerOff(unix.LINUX_REBOOT_CMD_POWER_OFF)
			}
		}
	}()
	return retries
}

// requestRetry asks for the next attempt. The menu may be busy at this moment; it sees the request later.
func requestRetry(retries chan<- struct{}) {
	select {
	case retries <- struct{}{}:
	default: // one request is enough
	}
}

// powerOff restarts, halts or switches off the machine. It returns only on an error.
func powerOff(how int) {
	synced := make(chan struct{})
	go func() {
		defer close(synced)
		unmountCache()
		unix.Sync()
	}()
	select {
	case <-synced:
	case <-time.After(syncLimit): // a disk does not answer
	}
	_ = unix.Reboot(how)
}

// syncLimit is how long a restart waits for the disks.
const syncLimit = 20 * time.Second

// FirstProcess reports whether this process is the init of an initramfs. The first process of a
// container also has PID 1, and is not.
func FirstProcess() bool { return os.Getpid() == 1 && rootInMemory() }

// Initramfs reports whether this process runs in an initramfs of Phase Boot. Only there a boot
// may change the machine.
func Initramfs() bool {
	_, err := os.Stat(roleFile)
	return err == nil && rootInMemory()
}

func rootInMemory() bool {
	var fs unix.Statfs_t
	err := unix.Statfs("/", &fs)
	return err == nil && (fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC)
}
