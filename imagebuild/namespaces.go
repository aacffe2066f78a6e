package imagebuild

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// checkNamespaces reports an error with its remedy if mmdebstrap needs user namespaces (for
// an ordinary user) and the kernel forbids them. It is called before any download.
func checkNamespaces() error {
	if os.Getuid() == 0 {
		return nil
	}
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = userNamespace(&syscall.SysProcAttr{})
	if cmd.Run() == nil {
		return nil
	}
	return errors.New("base system: user namespaces are forbidden, and an ordinary user needs them; " + namespaceAdvice(func(name string) string {
		text, _ := os.ReadFile("/proc/sys/" + name)
		return strings.TrimSpace(string(text))
	}))
}

// userNamespace adds a new user namespace to attr, in which the process is root.
func userNamespace(attr *syscall.SysProcAttr) *syscall.SysProcAttr {
	attr.Cloneflags |= syscall.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	return attr
}

// namespaceAdvice returns the remedy for the kernel setting that forbids user namespaces.
func namespaceAdvice(setting func(name string) string) string {
	switch {
	case setting("kernel/unprivileged_userns_clone") == "0":
		return "as root run: sysctl -w kernel.unprivileged_userns_clone=1"
	case setting("user/max_user_namespaces") == "0":
		return "as root run: sysctl -w user.max_user_namespaces=15000"
	case setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
		return "as root run: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
	}
	return "run it as root, or outside of this container"
}
