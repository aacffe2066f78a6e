package machine

import (
	"bytes"
	"context"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// An alias says which module drives the devices whose modalias matches.
type alias struct {
	prefix  string // the pattern up to its first wildcard: a cheap first test
	pattern string
	module  string
}

// parseAliases reads the `alias PATTERN MODULE` lines of modules.alias.
func parseAliases(data []byte) []alias {
	var list []alias
	for line := range bytes.Lines(data) {
		f := strings.Fields(string(line))
		if len(f) != 3 || f[0] != "alias" || !strings.Contains(f[1], ":") {
			continue
		}
		prefix := f[1]
		if i := strings.IndexAny(prefix, "*?[\\"); i >= 0 {
			prefix = prefix[:i]
		}
		list = append(list, alias{prefix: prefix, pattern: f[1], module: f[2]})
	}
	return list
}

// drivers returns the modules for a device.
func (m *modules) drivers(modalias string) []string {
	var names []string
	for _, a := range m.aliases {
		if !strings.HasPrefix(modalias, a.prefix) {
			continue
		}
		if ok, err := path.Match(a.pattern, modalias); ok && err == nil {
			names = append(names, a.module)
		}
	}
	return names
}

// coldplug loads the modules for all devices that are there, and for those that
// appear because a bus driver was loaded (virtio behind PCI). A driver that
// does not load is left out: the device is only missing.
func (m *modules) coldplug(sys string) {
	if len(m.aliases) == 0 {
		return
	}
	seen := map[string]bool{}
	for range 4 { // PCI -> virtio or SCSI -> disk: nothing nests deeper
		files, err := filepath.Glob(filepath.Join(sys, "bus/*/devices/*/modalias"))
		if err != nil {
			return
		}
		before := len(seen)
		for _, file := range files {
			data, err := os.ReadFile(file)
			modalias := strings.TrimSpace(string(data))
			if err != nil || seen[modalias] {
				continue
			}
			seen[modalias] = true
			m.plug(modalias)
		}
		if len(seen) == before {
			return
		}
	}
}

func (m *modules) plug(modalias string) {
	for _, name := range m.drivers(modalias) {
		_ = m.load(name)
	}
}

// hotplug loads modules for devices that the kernel announces, until ctx ends:
// what hangs on USB appears a second or two after its controller's driver. It
// listens before it returns, so that nothing between it and coldplug is lost.
// disk is told, without blocking, of every new block device.
func (m *modules) hotplug(ctx context.Context, disk chan<- struct{}) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return err
	}
	sock := os.NewFile(uintptr(fd), "uevent")
	context.AfterFunc(ctx, func() { sock.Close() })
	go m.listen(sock, disk)
	return nil
}

func (m *modules) listen(sock *os.File, disk chan<- struct{}) {
	buf := make([]byte, 16<<10) // the kernel's uevents are at most 2 KiB and a path
	for {
		n, err := sock.Read(buf)
		if err != nil {
			return
		}
		ev := parseUevent(buf[:n])
		if ev["ACTION"] != "add" {
			continue
		}
		if ev["MODALIAS"] != "" {
			m.plug(ev["MODALIAS"])
		}
		if ev["SUBSYSTEM"] == "block" {
			select {
			case disk <- struct{}{}:
			default:
			}
		}
	}
}

// parseUevent reads the NUL-separated KEY=VALUE strings of a kernel event.
func parseUevent(data []byte) map[string]string {
	ev := map[string]string{}
	for field := range strings.SplitSeq(string(data), "\x00") {
		if k, v, ok := strings.Cut(field, "="); ok {
			ev[k] = v
		}
	}
	return ev
}
