package machine

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
)

// A mount is one file system that a role needs.
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

// baseMounts are what a kernel and its tools expect of PID 1.
var baseMounts = []mount{
	{"proc", "/proc", "proc", quiet, ""},
	{"sysfs", "/sys", "sysfs", quiet, ""},
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
}

// mountAll mounts a table in order. What is mounted already stays.
func mountAll(table []mount) (words string, err error) {
	var done []string
	for _, m := range table {
		if err := m.do(); err != nil {
			return "", err
		}
		done = append(done, m.target)
	}
	return strings.Join(done, " "), nil
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s (%s): %w", m.target, m.fstype, err)
	}
	return nil
}
