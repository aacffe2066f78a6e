package plasm

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nobody is the user and the group of a process that root has started.
const nobody = 65534

// mountNamespace is the link that names the mount namespace of this process.
const mountNamespace = "/proc/self/ns/mnt"

// isolate separates this process from the host permanently, as far as the kernel allows: an empty file
// system, another user, no capabilities. parent is the mount namespace of the parent process. If room is
// not 0, the file system has that many bytes of memory for files, and isolate calls inside to make them.
// isolate returns what it has reached. Call it after confine, which reads /proc.
func isolate(parent string, room int64, inside func()) []string {
	reached := []string{}
	own, err := os.Readlink(mountNamespace)
	if err == nil && parent != "" && own != parent && emptyRoot(room) == nil {
		reached = append(reached, IsolationNamespaces)
		if room > 0 {
			inside()
		}
	}
	// An error means that the process has no right to change its user, as in a user namespace.
	_ = syscall.Setgroups(nil)
	_ = syscall.Setresgid(nobody, nobody, nobody)
	_ = syscall.Setresuid(nobody, nobody, nobody)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	// Fails in a program with a C library, which plasmd as built by make does not have.
	_, _, _ = syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none[0])), 0)
	return reached
}

// emptyRoot replaces the file system that this process sees by an empty one, in which files of room bytes
// can be made; it is read-only if room is 0. Call it in a mount namespace of its own only.
func emptyRoot(room int64) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	const at = "/proc" // a folder that exists
	flags, options := uintptr(unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC), fmt.Sprintf("size=%d,nr_inodes=8,mode=755", room)
	if room == 0 {
		flags, options = flags|unix.MS_RDONLY, "size=4k,nr_inodes=2,mode=555"
	}
	if err := unix.Mount("tmpfs", at, "tmpfs", flags, options); err != nil {
		return err
	}
	if err := unix.Chdir(at); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// dieWithParent asks for SIGKILL at the end of the parent process once more, because a change of the user
// cancels that. request is the pipe that the parent holds open.
func dieWithParent(request *os.File) error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return err
	}
	poll := []unix.PollFd{{Fd: int32(request.Fd()), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, 0); err == nil && n > 0 && poll[0].Revents&unix.POLLHUP != 0 {
		return errors.New("the parent process has ended")
	}
	return nil
}
