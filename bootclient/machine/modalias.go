package machine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// An alias maps the modaliases that match a pattern to a module.
type alias struct {
	prefix  string // the pattern up to its first wildcard, for a fast first test
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

// drivers returns the names of the modules for a device.
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

// coldplug loads the modules for all devices that exist, and for devices that appear when a bus
// driver is loaded (virtio behind PCI). It ignores a module that fails to load: only its device
// is missing then.
func (m *modules) coldplug(sys string) {
	if len(m.aliases) == 0 {
		return
	}
	seen := map[string]bool{}
	for range 4 { // deepest nesting: PCI -> virtio or SCSI -> disk
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
			m.loadDrivers(modalias)
		}
		if len(seen) == before {
			return
		}
	}
}

func (m *modules) loadDrivers(modalias string) {
	for _, name := range m.drivers(modalias) {
		_ = m.load(name)
	}
}

// hotplug loads modules for devices that the kernel announces, until ctx ends. USB devices appear
// a second or two after the driver of their controller. hotplug listens before it returns, so
// that coldplug called afterwards misses no device. For every new block device it signals
// newDisk, without blocking.
func (m *modules) hotplug(ctx context.Context, newDisk chan<- struct{}) error {
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
	go m.readUevents(sock, "/sys", newDisk)
	return nil
}

// readUevents handles uevents until the socket is closed. When the kernel had no room for some of them,
// because a driver took long to load, it looks for new devices and disks itself.
func (m *modules) readUevents(sock io.Reader, sys string, newDisk chan<- struct{}) {
	signal := func() {
		select {
		case newDisk <- struct{}{}:
		default:
		}
	}
	buf := make([]byte, 16<<10) // a uevent has at most 2 KiB and a path
	for {
		n, err := sock.Read(buf)
		if errors.Is(err, unix.ENOBUFS) {
			m.coldplug(sys)
			signal()
			continue
		}
		if err != nil {
			return
		}
		ev := parseUevent(buf[:n])
		if ev["ACTION"] != "add" {
			continue
		}
		if ev["MODALIAS"] != "" {
			m.loadDrivers(ev["MODALIAS"])
		}
		if ev["SUBSYSTEM"] == "block" {
			signal()
		}
	}
}

// parseUevent reads the NUL-separated KEY=VALUE strings of a uevent.
func parseUevent(data []byte) map[string]string {
	ev := map[string]string{}
	for field := range strings.SplitSeq(string(data), "\x00") {
		if k, v, ok := strings.Cut(field, "="); ok {
			ev[k] = v
		}
	}
	return ev
}
