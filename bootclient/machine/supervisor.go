package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// reportFile is the report of the last attempt, reasonFile the reason of its failure. Both
	// are read by phase-boot status.
	reportFile = "/run/phase-boot.report.json"
	reasonFile = "/run/phase-boot.refused"
	// limitFile is where the boot process writes how many seconds the attempt may take, when it
	// knows the size of the release.
	limitFile = "/run/phase-boot.limit"
	// crashFile is where PID 1 writes how the boot process has ended if it could not say so itself, for the report of the
	// next attempt.
	crashFile = "/run/phase-boot.crashed"
	// watchdogFile is where PID 1 writes which watchdog it kicks, for the report.
	watchdogFile = "/run/phase-boot.watchdog"
)

// Limits of one attempt. The boot process prints a line at least every ten seconds while it waits for
// the network, and a record of its progress twice a second while it fetches.
const (
	maxSilence   = 10 * time.Minute // an attempt that prints nothing for so long hangs
	attemptLimit = time.Hour        // of an attempt without its payload
	lowestRate   = 16 << 10         // bytes a second, for which the payload extends the limit
	longestLimit = 48 * time.Hour
)

// supervise is PID 1 of the boot role: it starts the boot process, waits for its end, and jumps
// into the loaded kernel. It returns only when that fails.
func (p *pid1) supervise() error {
	err := runSteps(context.Background(), p.report, []step{
		{"kernel", optional, kernelVersion},
		{"clock", optional, bootClock},
	})
	if err != nil {
		return err
	}
	if err := p.runAttempt(); err != nil {
		return err
	}
	p.report.Say("kexec: starting the new kernel")
	if words := p.dog.handOn(); words != "" {
		p.report.Say("watchdog: %s", words)
	}
	p.out.drain()
	return jump()
}

// kernelVersion is the step that reports the running kernel.
func kernelVersion(context.Context) (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return fmt.Sprintf("Linux %s %s", unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])), nil
}

// bootClock is the step that corrects the clock.
func bootClock(context.Context) (string, error) {
	built, err := buildTime(buildFile)
	if err != nil {
		return "", err
	}
	words, err := setClock(built, time.Now())
	if err == nil {
		_ = os.WriteFile(clockFile, []byte(words), 0o644) // for the report of the target
	}
	return words, err
}

// runAttempt runs `phase-boot boot` and returns nil when it loaded a kernel.
func (p *pid1) runAttempt() error {
	for _, file := range []string{failureFile, watchFile, limitFile} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	limits := runLimits{silence: maxSilence, total: func() time.Duration { return readLimit(limitFile) }, each: func() { p.dog.allow(maxSilence) }}
	ws, err := p.out.run(p.kids, limits, "/proc/self/exe", append([]string{"phase-boot", "boot"}, p.choice.args()...))
	switch {
	case errors.Is(err, errStuck):
		p.report.Say("%v", err)
		p.out.drain()
		powerOff(unix.LINUX_REBOOT_CMD_RESTART)
		return err
	case err == nil && ws.Exited() && ws.ExitStatus() == 0:
		return nil
	}
	unmountCache()
	text := readFailure(failureFile)
	if err != nil {
		err = fmt.Errorf("%w%s", err, lines(text))
	} else {
		err = childError(ws, text)
	}
	if text == "" {
		writeCrash(crashFile, err)
	}
	return err
}

// writeCrash keeps how an attempt has ended that could not report it itself.
func writeCrash(file string, err error) {
	_ = os.WriteFile(file, []byte(err.Error()), 0o600) // without it the next report does not tell it
}

// takeCrash returns what writeCrash has kept, and removes it.
func takeCrash(file string) string {
	text, _, _ := strings.Cut(readFailure(file), "\n")
	_ = os.Remove(file)
	return text
}

// lines returns a text as further lines of an error.
func lines(text string) string {
	if text == "" {
		return ""
	}
	return "\n" + text
}

// readLimit returns how long the attempt may take.
func readLimit(file string) time.Duration {
	data, err := os.ReadFile(file)
	if err != nil {
		return attemptLimit
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return attemptLimit
	}
	return time.Duration(min(max(seconds, int64(attemptLimit/time.Second)), int64(longestLimit/time.Second))) * time.Second
}

// writeLimit tells PID 1 how long an attempt with a payload of size bytes may take.
func writeLimit(file string, size int64) error {
	seconds := int64(attemptLimit/time.Second) + size/lowestRate
	return os.WriteFile(file, strconv.AppendInt(nil, seconds, 10), 0o600)
}

// childError returns why the boot process failed: the text that it wrote, or else a description
// of its exit status.
func childError(ws unix.WaitStatus, text string) error {
	switch {
	case text != "":
		return errors.New(text)
	case ws.Signaled() && ws.Signal() == unix.SIGKILL:
		return errors.New("boot process: killed: the machine has too little memory; give it more")
	case ws.Signaled():
		return fmt.Errorf("boot process: ended by signal %q", ws.Signal())
	case ws.ExitStatus() == 2:
		return errors.New("boot process: it crashed, its stack trace is above; please report it")
	default:
		return fmt.Errorf("boot process: ended with status %d", ws.ExitStatus())
	}
}
