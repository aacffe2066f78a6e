package limit

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// Files returns how many files and connections this process may have open, or 0 if there is no
// known limit.
func Files() int {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil || l.Cur > 1<<30 {
		return 0
	}
	return int(l.Cur)
}

// outOfFiles reports whether err means that the process or the machine has too many open files.
func outOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}
