package machine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/report"
)

// movedMounts are the mounts that are moved to the next root.
var movedMounts = []string{"/dev", "/proc", "/sys", "/run"}

// switchRoot makes newRoot the root of the machine and replaces this process by its init. The
// initramfs cannot be unmounted; its files are deleted to free their memory. Files that are open,
// such as the squashfs of the loop device, stay.
func switchRoot(out *consoles, rep *report.Report) error {
	if err := checkInit(newRoot, nextInit); err != nil {
		return err
	}
	_ = unix.Unmount("/tmp", unix.MNT_DETACH)
	for _, dir := range movedMounts {
		to := filepath.Join(newRoot, dir)
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(dir, to, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := unix.Chdir(newRoot); err != nil {
		return err
	}
	if err := emptyInitramfs(); err != nil {
		rep.Say("switch root: the memory of the initramfs is not freed: %v", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := errors.Join(unix.Chroot("."), unix.Chdir("/")); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	rep.Say("switch root: starting %s", nextInit)
	out.drain()
	return fmt.Errorf("%s: %w", nextInit, unix.Exec(nextInit, []string{nextInit}, environment))
}

// checkInit refuses a new root without an init program, before the root is switched: the file must
// exist, be executable, and begin as an ELF program or a script. A symbolic link that os.Root does
// not follow, such as an absolute one, is not checked.
func checkInit(dir, path string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := root.Lstat(path[1:]); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("rootfs: %s: %w; build the rootfs with an init", path, fs.ErrNotExist)
	}
	f, err := root.OpenFile(path[1:], os.O_RDONLY|unix.O_NONBLOCK, 0) // O_NONBLOCK: a pipe must not block PID 1
	if err != nil {
		return nil
	}
	defer f.Close()
	var head [4]byte
	_, err = io.ReadFull(f, head[:])
	info, statErr := f.Stat()
	if err != nil || statErr != nil || info.Mode()&0o111 == 0 || string(head[:]) != "\x7fELF" && string(head[:2]) != "#!" {
		return fmt.Errorf("rootfs: %s: not an executable program; build the rootfs with an init", path)
	}
	return nil
}

// emptyInitramfs deletes every file of the first root. It does not enter mount points.
func emptyInitramfs() error {
	var root unix.Stat_t
	if err := unix.Lstat("/", &root); err != nil {
		return err
	}
	return removeTree("/", uint64(root.Dev))
}

// removeTree deletes the files below a folder that are on the device.
func removeTree(dir string, dev uint64) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || uint64(st.Dev) != dev {
			continue // a mount point, or gone already
		}
		if e.IsDir() {
			errs = append(errs, removeTree(path, dev))
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
