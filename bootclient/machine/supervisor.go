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

	"github.com/phaseboot/phaseboot/bootclient"
)

const (
	// failureFile is where the boot process leaves its reason for PID 1: the
	// error on the first line, then what was refused, a line each.
	failureFile = "/run/phase-boot.failed"
	maxFailure  = 8 << 10 // bytes
	// reportFile is the report of the last attempt, reasonFile why it was refused:
	// for phase-boot status.
	reportFile = "/run/phase-boot.report.json"
	reasonFile = "/run/phase-boot.refused"
	// watchFile says that a network card or a cable would help.
	watchFile = "/run/phase-boot.watch"
)

// supervise is PID 1 of the boot role: it starts the boot process, waits, and
// jumps when a kernel is loaded. It returns the reason why not.
func supervise(out *consoles, story *bootclient.Report) error {
	err := runSteps(context.Background(), story, []step{
		{"kernel", goOn, kernelWords},
		{"clock", goOn, bootClock},
	})
	if err != nil {
		return err
	}
	if err := runChild(out); err != nil {
		return err
	}
	story.Say("kexec: starting the new kernel")
	out.drain()
	return jump()
}

func kernelWords(context.Context) (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return fmt.Sprintf("Linux %s %s", unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])), nil
}

func bootClock(context.Context) (string, error) {
	floor, err := buildTime(buildFile)
	if err != nil {
		return "", err
	}
	return setClock(floor, time.Now())
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
	return childReason(ws, readFailure(failureFile))
}

// childReason says why the boot process ended: its own words, or what its end
// looks like from outside.
func childReason(ws unix.WaitStatus, words string) error {
	switch {
	case words != "":
		return errors.New(words)
	case ws.Signaled() && ws.Signal() == unix.SIGKILL:
		return errors.New("boot process: killed: the machine has too little memory; give it more")
	case ws.Signaled():
		return fmt.Errorf("boot process: ended by signal %q", ws.Signal())
	case ws.ExitStatus() == 2:
		return errors.New("boot process: it crashed, its trace is above; please report it")
	default:
		return fmt.Errorf("boot process: ended with status %d", ws.ExitStatus())
	}
}

// writeFailure leaves the reason for PID 1, with what was refused and what to do next.
func writeFailure(file string, reason error, refused []bootclient.Refusal, advice string) error {
	words := strings.ReplaceAll(reason.Error(), "\n", "; ") + refusedWords(refused, maxFailure/2)
	if advice != "" {
		words += "\nto try: " + advice
	}
	return os.WriteFile(file, []byte(words), 0o600)
}

// readFailure returns the reason, capped, "" when there is none.
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
