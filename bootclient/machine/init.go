package machine

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient"
)

// Files of the initramfs that say what this machine is. phase-image writes them.
const (
	roleFile    = "/etc/phase/role"       // boot or target
	rootFile    = "/etc/phase/root.json"  // the one thing that is trusted (boot role)
	channelFile = "/etc/phase/channel"    // channel without phase.channel= (boot role)
	buildFile   = "/etc/phase/build-time" // Unix seconds (boot role)
	modulesFile = "/etc/phase/modules"    // modules to load at start, one a line
)

// Init is PID 1 of both roles. It never returns: the kernel panics when PID 1
// ends, so every failure and every panic ends in a shell on each console and
// another attempt.
func Init() {
	debug.SetGCPercent(20)
	p := &process1{
		out:   &consoles{paths: func() []string { return consolePaths("/proc", "/sys", "/dev") }},
		retry: obeySignals(),
		pause: retryPause,
	}
	p.story = newStory(p.out)
	for {
		err := contain(p.out, p.start)
		_ = contain(p.out, func() error { return p.rescue(err) })
	}
}

// process1 is PID 1.
type process1 struct {
	out   *consoles
	story *bootclient.Report
	role  string
	retry <-chan struct{}
	pause time.Duration // before the next attempt on a machine without a console
}

// start mounts what every role needs and goes on by role. It returns only when
// the role failed.
func (p *process1) start() error {
	err := runSteps(context.Background(), p.story, []step{
		{"mount", fatal, func(context.Context) (string, error) { return mountAll(baseMounts) }},
		{"console", goOn, func(context.Context) (string, error) { return p.out.find(), nil }},
	})
	if err != nil {
		return err
	}
	role, err := os.ReadFile(roleFile)
	if err != nil {
		return fmt.Errorf("role: %w; the initramfs must say boot or target there", err)
	}
	switch p.role = strings.TrimSpace(string(role)); p.role {
	case "boot":
		return supervise(p.out, p.story)
	case "target":
		err := target(p.out, p.story)
		return withAdvice(err, targetAdvice)
	default:
		return fmt.Errorf("role %.20q: %s must say boot or target", p.role, roleFile)
	}
}

// contain turns a panic into an error, after its trace was printed.
func contain(out io.Writer, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			out.Write(debug.Stack())
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return f()
}

// rescue says why nothing was booted and gives the people at the consoles a shell. It
// returns when the next attempt is due.
func (p *process1) rescue(reason error) error {
	p.out.find()
	words := refusalWords(reason)
	_, _ = io.WriteString(p.out, words)
	_ = os.WriteFile(reasonFile, []byte(words), 0o644) // for phase-boot status
	p.out.drain()
	t := turn{out: p.out, retry: p.retry, pause: p.pause, typed: leastTyped}
	if _, err := os.Stat(watchFile); err == nil {
		t.watch = []string{"/proc/self/exe", "watch"}
	}
	p.pause = min(2*p.pause, retryMaxPause)
	t.wait()
	p.out.find()
	if p.role == "target" && len(p.out.terminals()) == 0 {
		// Another attempt of the same release ends as this one did; a restart takes what is
		// published by then.
		powerOff(unix.LINUX_REBOOT_CMD_RESTART)
	}
	return nil
}

// refusalWords are a refusal as the consoles show it: the reason, what was offered and
// not taken, what to do next.
func refusalWords(reason error) string {
	var b strings.Builder
	first, rest, _ := strings.Cut(reason.Error(), "\n")
	fmt.Fprintf(&b, "\nphase-boot: boot refused: %s\n", printable(first))
	for line := range strings.Lines(rest) {
		fmt.Fprintf(&b, "  %s\n", printable(strings.TrimSpace(line)))
	}
	b.WriteString("  this is a shell: `phase-boot status` tells more, `phase-boot retry` or exit tries again, `reboot` restarts the machine\n\n")
	return b.String()
}

// obeySignals takes the signals of PID 1: busybox's reboot, halt and poweroff, and SIGHUP,
// which is phase-boot retry. A signal with a handler does not end PID 1; one that is
// ignored would stay ignored in the shell.
func obeySignals() (retry <-chan struct{}) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE, unix.SIGALRM)
	asked := make(chan struct{})
	go func() {
		for s := range signals {
			switch s {
			case unix.SIGHUP:
				select {
				case asked <- struct{}{}:
				default: // an attempt is under way
				}
			case unix.SIGTERM:
				powerOff(unix.LINUX_REBOOT_CMD_RESTART)
			case unix.SIGUSR1:
				powerOff(unix.LINUX_REBOOT_CMD_HALT)
			case unix.SIGUSR2:
				powerOff(unix.LINUX_REBOOT_CMD_POWER_OFF)
			}
		}
	}()
	return asked
}

func powerOff(how int) {
	unmountCache()
	unix.Sync()
	_ = unix.Reboot(how)
}

// FirstProcess reports whether this process is the init of a kernel and its
// initramfs. The first process of a container, which has PID 1 too, is not.
func FirstProcess() bool { return os.Getpid() == 1 && rootInMemory() }

// Initramfs reports whether this process lives in an initramfs of ours: only
// there may a boot change the machine.
func Initramfs() bool {
	_, err := os.Stat(roleFile)
	return err == nil && rootInMemory()
}

func rootInMemory() bool {
	var fs unix.Statfs_t
	err := unix.Statfs("/", &fs)
	return err == nil && (fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC)
}
