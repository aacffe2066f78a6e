package machine

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTheExitOfTheBootProcessIsExplained(t *testing.T) {
	exit := func(code int) unix.WaitStatus { return unix.WaitStatus(code << 8) }
	for want, got := range map[string]error{
		"its own error":     childError(exit(1), "its own error"),
		"too little memory": childError(unix.WaitStatus(syscall.SIGKILL), ""),
		"ended by signal":   childError(unix.WaitStatus(syscall.SIGSEGV), ""),
		"it crashed":        childError(exit(2), ""),
		"status 7":          childError(exit(7), ""),
	} {
		if !strings.Contains(got.Error(), want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
}

// The report of the next attempt says how one has ended that could not report itself, once.
func TestACrashIsToldOnce(t *testing.T) {
	name := filepath.Join(t.TempDir(), "crashed")
	if words := takeCrash(name); words != "" {
		t.Errorf("without a crash: %q", words)
	}
	writeCrash(name, errors.New("boot process: it crashed\nmore"))
	if words := takeCrash(name); words != "boot process: it crashed" {
		t.Errorf("got %q", words)
	}
	if words := takeCrash(name); words != "" {
		t.Errorf("told again: %q", words)
	}
}
