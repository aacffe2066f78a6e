package limit

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// Files is how many files and connections this process may have open, 0 for no limit that
// is known.
func Files() int {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil || l.Cur > 1<<30 {
		return 0
	}
	return int(l.Cur)
}

// outOfFiles reports whether an error is that of a process, or a machine, with too many
// open files.
func outOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}
