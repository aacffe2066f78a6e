package imagebuild

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Device is a disk of this host, as Linux describes it in /sys. Model and Serial come from the
// device: quote them before they are printed.
type Device struct {
	Path      string   `json:"device"` // "/dev/sdb"
	Model     string   `json:"model"`
	Serial    string   `json:"serial"`
	Bus       string   `json:"bus"`  // usb, mmc, nvme, ata, virtio, loop, scsi; "" for another
	Size      int64    `json:"size"` // bytes
	Removable bool     `json:"removable"`
	ReadOnly  bool     `json:"read_only"`
	Mounted   []string `json:"mounted"` // mount points of its partitions and of what is above them; "swap" for swap
	System    bool     `json:"system"`  // it has /, /boot, /usr, /efi or swap
	Holders   []string `json:"holders"` // LVM, dm-crypt and RAID devices above it

	kind   string // "disk", "partition", or "volume" for LVM, dm-crypt and RAID
	disk   string // of a partition: the path of its disk
	zeroes bool   // the device itself fills ranges with zeros
}

// Name is the last part of the path: "sdb".
func (d *Device) Name() string { return filepath.Base(d.Path) }

// Devices returns the disks of this host that are removable, in the order of their names.
func Devices() ([]Device, error) { return host{"/"}.removable() }

// A host is a root folder with sys, proc and dev. Tests use another than "/".
type host struct{ root string }

func (h host) path(elem ...string) string { return filepath.Join(append([]string{h.root}, elem...)...) }

// text returns the content of a file of one line, "" if it cannot be read.
func (h host) text(elem ...string) string {
	data, _ := os.ReadFile(h.path(elem...))
	return string(bytes.TrimSpace(bytes.ReplaceAll(data, []byte{0}, nil)))
}

func (h host) removable() ([]Device, error) {
	entries, err := os.ReadDir(h.path("sys/block"))
	if err != nil {
		return nil, fmt.Errorf("block devices: %w", err)
	}
	list := []Device{}
	for _, e := range entries {
		d, err := h.device(e.Name())
		if err == nil && d.Removable && d.Size > 0 && d.kind == "disk" && !strings.HasPrefix(e.Name(), "sr") {
			list = append(list, d)
		}
	}
	return list, nil
}

// deviceOf describes an opened block device.
func (h host) deviceOf(f *os.File) (Device, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Device{}, err
	}
	dir, err := filepath.EvalSymlinks(h.path("sys/dev/block", fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))))
	if err != nil {
		return Device{}, fmt.Errorf("device %s: not described in /sys: %w", f.Name(), err)
	}
	return h.device(filepath.Base(dir))
}

// device describes the block device of a name in /sys/class/block.
func (h host) device(name string) (Device, error) {
	dir, err := filepath.EvalSymlinks(h.path("sys/class/block", name))
	if err != nil {
		return Device{}, fmt.Errorf("device %s: %w", name, err)
	}
	dir = strings.TrimPrefix(dir, filepath.Clean(h.root))
	sectors, _ := strconv.ParseInt(h.text(dir, "size"), 10, 54)
	path := func(name string) string { return "/dev/" + strings.ReplaceAll(name, "!", "/") }
	d := Device{
		Path: path(name), Size: sectors * 512, kind: "disk", Bus: busOf(dir, name), ReadOnly: h.text(dir, "ro") == "1",
		Model: strings.Join(strings.Fields(h.text(dir, "device/vendor")+" "+h.text(dir, "device/model")+" "+h.text(dir, "device/name")), " "),
	}
	if d.Bus == "virtio" { // its vendor is a number
		d.Model = "virtual disk"
	}
	if file := h.text(dir, "loop/backing_file"); file != "" {
		d.Model = "file " + file
	}
	switch {
	case h.has(dir, "partition"):
		d.kind, d.disk = "partition", path(filepath.Base(filepath.Dir(dir)))
	case h.has(dir, "dm"), h.has(dir, "md"):
		d.kind = "volume"
	}
	d.Serial = h.serial(dir)
	d.Removable = h.text(dir, "removable") == "1" || d.Bus == "usb" || h.text(dir, "device/type") == "SD"
	most, _ := strconv.ParseUint(h.text(dir, "queue/write_zeroes_max_bytes"), 10, 64)
	d.zeroes = most > 0
	h.findUses(&d, dir)
	return d, nil
}

func (h host) has(elem ...string) bool {
	_, err := os.Stat(h.path(elem...))
	return err == nil
}

func busOf(dir, name string) string {
	for _, bus := range []struct{ mark, name string }{{"/usb", "usb"}, {"/mmc", "mmc"}, {"/nvme", "nvme"}, {"/ata", "ata"}, {"/virtio", "virtio"}, {"/loop", "loop"}, {"/host", "scsi"}} {
		if strings.Contains(dir, bus.mark) {
			return bus.name
		}
	}
	return ""
}

// serial returns the serial number of a disk: its own, or that of the USB device that it is on.
func (h host) serial(dir string) string {
	for _, file := range []string{"serial", "device/serial"} {
		if s := h.text(dir, file); s != "" {
			return s
		}
	}
	if page, err := os.ReadFile(h.path(dir, "device/vpd_pg80")); err == nil && len(page) > 4 && !strings.Contains(dir, "/usb") {
		return string(bytes.TrimSpace(page[4:])) // SPC-4, 7.8.13
	}
	for up := dir; strings.Contains(up, "/usb"); up = filepath.Dir(up) {
		if s := h.text(up, "serial"); s != "" {
			return s
		}
	}
	return ""
}

// findUses finds what the disk is used for: mounts and swap of the disk, its partitions, and the
// volumes that are made of them.
func (h host) findUses(d *Device, dir string) {
	d.Mounted, d.Holders = []string{}, []string{}
	uses, seen := h.uses(), map[string]bool{}
	var visit func(dir string)
	visit = func(dir string) {
		number := h.text(dir, "dev")
		if number == "" || seen[number] {
			return
		}
		seen[number] = true
		d.Mounted = append(d.Mounted, uses[number]...)
		entries, _ := os.ReadDir(h.path(dir))
		for _, e := range entries {
			if h.has(dir, e.Name(), "partition") {
				visit(filepath.Join(dir, e.Name()))
			}
		}
		holders, _ := os.ReadDir(h.path(dir, "holders"))
		for _, e := range holders {
			d.Holders = append(d.Holders, e.Name())
			if above, err := filepath.EvalSymlinks(h.path("sys/class/block", e.Name())); err == nil {
				visit(strings.TrimPrefix(above, filepath.Clean(h.root)))
			}
		}
	}
	visit(dir)
	slices.Sort(d.Mounted)
	d.Mounted = slices.Compact(d.Mounted)
	d.System = slices.ContainsFunc(d.Mounted, func(at string) bool {
		first, _, _ := strings.Cut(strings.TrimPrefix(at, "/"), "/")
		return at == swap || slices.Contains([]string{"", "boot", "efi", "usr"}, first)
	})
}

const swap = "swap"

// uses returns the mount points of the block devices, by major:minor.
func (h host) uses() map[string][]string {
	uses := map[string][]string{}
	mounts, _ := os.ReadFile(h.path("proc/self/mountinfo")) // proc_pid_mountinfo(5)
	for line := range strings.Lines(string(mounts)) {
		left, right, _ := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if len(l) < 5 || len(r) < 2 {
			continue
		}
		number, at := l[2], unescape(l[4])
		if strings.HasPrefix(number, "0:") { // btrfs has a number of its own
			number = h.number(unescape(r[1]))
		}
		uses[number] = append(uses[number], at)
	}
	swaps, _ := os.ReadFile(h.path("proc/swaps"))
	for line := range strings.Lines(string(swaps)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[1] == "partition" {
			number := h.number(unescape(fields[0]))
			uses[number] = append(uses[number], swap)
		}
	}
	return uses
}

// number returns the major:minor of a path below /dev, "" for another text.
func (h host) number(path string) string {
	if !strings.HasPrefix(path, "/dev/") {
		return ""
	}
	real, err := filepath.EvalSymlinks(h.path(path)) // /dev/mapper/NAME is a link to /dev/dm-0
	if err != nil {
		return ""
	}
	return h.text("sys/class/block", filepath.Base(real), "dev")
}

// unescape decodes the octal escapes of /proc: "\040" is a space.
func unescape(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		if s[0] == '\\' && len(s) > 3 {
			if n, err := strconv.ParseUint(s[1:4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				s = s[4:]
				continue
			}
		}
		b.WriteByte(s[0])
		s = s[1:]
	}
	return b.String()
}

// refuse returns why an image of a size must not be written to the device, nil if it may.
func (d *Device) refuse(size int64, allowFixed bool) error {
	no := func(format string, args ...any) error {
		return optionsf("device %s: %s", d.Path, fmt.Sprintf(format, args...))
	}
	switch {
	case d.kind == "partition":
		return no("a partition; name the whole disk, %s", d.disk)
	case d.kind == "volume":
		return no("a volume of LVM, dm-crypt or RAID, not a disk; name a disk")
	case d.System:
		return no("a disk of this running system: it has %s; name another device", strings.Join(d.Mounted, ", "))
	case len(d.Mounted) > 0:
		return no("mounted at %s; unmount it first", strings.Join(d.Mounted, ", "))
	case len(d.Holders) > 0:
		return no("in use by %s (LVM, dm-crypt or RAID); release it first", strings.Join(d.Holders, ", "))
	case d.ReadOnly:
		return no("write-protected; move the switch on it, or use another device")
	case !d.Removable && !allowFixed:
		return no("not removable; add --allow-fixed to write a fixed disk")
	case d.Size < size:
		return no("too small: %d bytes, the image has %d; use a larger one, or build the image with a smaller --size", d.Size, size)
	}
	return nil
}

// statDevice refuses a path that is not a block device.
func statDevice(name string) error {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("device %s: %w; phase-image write lists the removable devices", name, fs.ErrNotExist)
	case err != nil:
		return fmt.Errorf("device: %w", err)
	case info.Mode().Type() != fs.ModeDevice:
		return optionsf("device %s: not a block device; phase-image write lists the removable devices", name)
	}
	return nil
}
