package machine

import (
	"context"
	"fmt"
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
// ends, so every failure and every panic ends in a shell on the console and
// another attempt.
func Init() {
	// A signal with a handler does not end PID 1; one that is ignored would stay
	// ignored in the shell.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM,
		unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE, unix.SIGALRM)
	debug.SetGCPercent(20)
	story := newStory(os.Stdout)
	for {
		err := contain(func() error { return start(story) })
		_ = contain(func() error { rescue(err); return nil })
		_ = contain(takeConsole) // the shell's end may have hung up the terminal
	}
}

// start mounts what every role needs and goes on by role. It returns only when
// the role failed.
func start(story *bootclient.Report) error {
	err := runSteps(context.Background(), story, []step{
		{"mount", fatal, func(context.Context) (string, error) { return mountAll(baseMounts) }},
		{"console", goOn, func(context.Context) (string, error) { return activeTerminal(), takeConsole() }},
	})
	if err != nil {
		return err
	}
	role, err := os.ReadFile(roleFile)
	if err != nil {
		return fmt.Errorf("role: %w; the initramfs must say boot or target there", err)
	}
	switch name := strings.TrimSpace(string(role)); name {
	case "boot":
		return supervise(story)
	case "target":
		return target(story)
	default:
		return fmt.Errorf("role %.20q: %s must say boot or target", name, roleFile)
	}
}

// contain turns a panic into an error, after its trace was printed.
func contain(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			fmt.Fprintf(os.Stderr, "%s", debug.Stack())
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return f()
}

// rescue says why nothing was booted and gives the person at the console a
// shell. It returns when the shell ends.
func rescue(reason error) {
	first, rest, _ := strings.Cut(reason.Error(), "\n")
	fmt.Printf("\nphase-boot: boot refused: %s\n", printable(first))
	for line := range strings.Lines(rest) {
		fmt.Printf("  %s\n", printable(strings.TrimSpace(line)))
	}
	fmt.Print("  to try: another entry of the boot menu, the network cable, another publisher (phase.mirror=, phase.peer=)\n" +
		"  this is a shell; exit tries the boot again, `busybox reboot -f` restarts the machine\n\n")
	drainConsole()
	if err := shell(); err != nil {
		fmt.Printf("phase-boot: shell: %s\n", printable(err.Error()))
		// Without a shell nobody can say when to try again.
		time.Sleep(retryPause)
	}
}

// retryPause is the time between two attempts on a machine without a shell.
const retryPause = 30 * time.Second

// shell runs busybox on the console's terminal, in a session of its own, and
// waits for its end.
func shell() error {
	tty, err := os.OpenFile(activeTerminal(), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		tty, err = os.OpenFile("/dev/console", os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		return err
	}
	defer tty.Close()
	pid, err := spawn("/bin/busybox", []string{"sh"}, tty)
	if err != nil {
		return fmt.Errorf("/bin/busybox: %w", err)
	}
	_, err = reap(pid)
	return err
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
