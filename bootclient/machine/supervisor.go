package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/report"
)

const (
	// failureFile is where the boot process writes its error for PID 1: the error on the first
	// line, then the refused metadata and blocks, one a line.
	failureFile = "/run/phase-boot.failed"
	maxFailure  = 8 << 10 // bytes
	// reportFile is the report of the last attempt, reasonFile the reason of its failure. Both
	// are read by phase-boot status.
	reportFile = "/run/phase-boot.report.json"
	reasonFile = "/run/phase-boot.refused"
	// watchFile names the missing hardware, a network card or a link, for phase-boot watch.
	watchFile = "/run/phase-boot.watch"
)

// supervise is PID 1 of the boot role: it starts the boot process, waits for its end, and jumps
// into the loaded kernel. It returns only when that fails.
func supervise(out *consoles, rep *report.Report) error {
	err := runSteps(context.Background(), rep, []step{
		{"kernel", optional, kernelVersion},
		{"clock", optional, bootClock},
	})
	if err != nil {
		return err
	}
	if err := runChild(out); err != nil {
		return err
	}
	rep.Say("kexec: starting the new kernel")
	out.drain()
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
	return setClock(built, time.Now())
}

// runChild runs `phase-boot boot` and returns nil when it loaded a kernel.
func runChild(out *consoles) error {
	for _, file := range []string{failureFile, watchFile} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	ws, err := out.run("/proc/self/exe", []string{"phase-boot", "boot"})
	if err != nil {
		return fmt.Errorf("boot process: %w", err)
	}
	if ws.Exited() && ws.ExitStatus() == 0 {
		return nil
	}
	unmountCache()
	return childError(ws, readFailure(failureFile))
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

// writeFailure writes the error for PID 1, with the refused metadata and blocks and the advice.
func writeFailure(file string, reason error, refused []report.Refusal, advice string) error {
	text := strings.ReplaceAll(reason.Error(), "\n", "; ") + refusedLines(refused, maxFailure/2)
	if advice != "" {
		text += "\nto try: " + advice
	}
	return os.WriteFile(file, []byte(text), 0o600)
}

// readFailure returns the first maxFailure bytes of the file, "" if it does not exist.
func readFailure(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFailure))
	if err != nil {
		return ""
	}
	return strings.ToValidUTF8(strings.TrimSpace(string(data)), "?")
}
