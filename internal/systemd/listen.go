package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// firstFD is the number of the first file that systemd passes.
const firstFD = 3

// Listener returns the socket with which systemd started this process, or nil without one. More than one is
// an error. It may be called once: it removes the variables, which are not for child processes.
func Listener() (net.Listener, error) {
	pid, count := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		os.Unsetenv(name)
	}
	if n, err := strconv.Atoi(pid); err != nil || n != os.Getpid() {
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 1 {
		return nil, nil
	}
	if n > 1 {
		return nil, fmt.Errorf("systemd passes %d sockets; this service takes one: remove a ListenStream= of its socket unit", n)
	}
	unix.CloseOnExec(firstFD)
	f := os.NewFile(firstFD, "socket of systemd")
	defer f.Close() // the listener has a copy
	l, err := net.FileListener(f)
	if err != nil {
		return nil, errors.New("systemd passes a file that is no listening socket; the socket unit needs a ListenStream=")
	}
	return l, nil
}
