package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// noPrograms are the mount flags of a file system without programs and device nodes.
const noPrograms = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// A mount is one call of mount(2).
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

// baseMounts are the mounts that every role needs.
var baseMounts = []mount{
	{"proc", "/proc", "proc", noPrograms, ""},
	{"sysfs", "/sys", "sysfs", noPrograms, ""},
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
}

// mountAll mounts a table in order. It skips targets that are mount points already.
func mountAll(table []mount) (summary string, err error) {
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
	// The kernel refuses a second proc on the same target, but stacks a second tmpfs there,
	// which would hide the files of an earlier attempt.
	if mounted(m.target) {
		return nil
	}
	err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s (%s): %w", m.target, m.fstype, err)
	}
	return nil
}

// mounted reports whether a folder is on another file system than its parent.
func mounted(dir string) bool {
	var here, above unix.Stat_t
	return unix.Stat(dir, &here) == nil && unix.Stat(filepath.Join(dir, ".."), &above) == nil && here.Dev != above.Dev
}
