package machine

import (
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
