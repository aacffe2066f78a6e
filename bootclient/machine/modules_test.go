package machine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/kmod"
)

const debian = "testdata/debian-cloud-6.1" // lines of depmod's own output

func debianModules(t *testing.T) (*modules, *[]string) {
	t.Helper()
	m, err := openModules(debian)
	if err != nil {
		t.Fatal(err)
	}
	var inserted []string
	m.insert = func(path string) error {
		inserted = append(inserted, kmod.Name(path))
		return nil
	}
	return m, &inserted
}

func TestDependenciesAreInsertedFirst(t *testing.T) {
	for _, name := range []string{"virtio_net", "virtio-pci", "virtio_scsi", "vfat", "btrfs", "squashfs"} {
		t.Run(name, func(t *testing.T) {
			m, inserted := debianModules(t)
			if err := m.load(name); err != nil {
				t.Fatal(err)
			}
			for i, got := range *inserted {
				for _, need := range m.deps[got] {
					if at := slices.Index(*inserted, need); at < 0 || at >= i {
						t.Errorf("%s inserted at %d, its dependency %s at %d", got, i, need, at)
					}
				}
			}
			if last := (*inserted)[len(*inserted)-1]; last != kmod.Name(name) {
				t.Errorf("last inserted is %s", last)
			}
		})
	}
}

func TestAModuleIsTriedOnce(t *testing.T) {
	m, inserted := debianModules(t)
	for _, name := range []string{"virtio_net", "virtio_pci", "virtio_net"} {
		if err := m.load(name); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(slices.Compact(slices.Sorted(slices.Values(*inserted)))); n != len(*inserted) || n != m.count() {
		t.Errorf("%d insertions of %d modules, count says %d", len(*inserted), n, m.count())
	}
}

func TestBuiltInModulesAreNotInserted(t *testing.T) {
	m, inserted := debianModules(t)
	if err := m.load("ext4"); err != nil || len(*inserted) != 0 {
		t.Errorf("load(ext4) = %v, inserted %v", err, *inserted)
	}
}

func TestUnknownModuleIsNamed(t *testing.T) {
	m, _ := debianModules(t)
	if err := m.load("warp_drive"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "warp_drive") {
		t.Errorf("got %v", err)
	}
}

func TestABadModuleDoesNotStopTheList(t *testing.T) {
	m, inserted := debianModules(t)
	list := filepath.Join(t.TempDir(), "modules")
	if err := os.WriteFile(list, []byte("# network\nwarp_drive\n\n virtio_net # the card\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := m.loadList(list)
	if !errors.Is(err, fs.ErrNotExist) || !slices.Contains(*inserted, "virtio_net") {
		t.Errorf("loadList = %v, inserted %v", err, *inserted)
	}
}

func TestAFailedDependencyIsNamed(t *testing.T) {
	m, _ := debianModules(t)
	m.insert = func(path string) error {
		if kmod.Name(path) == "virtio_ring" {
			return fs.ErrPermission
		}
		return nil
	}
	if err := m.load("virtio_net"); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "virtio_ring") {
		t.Errorf("got %v", err)
	}
}

func TestAMalformedModulesDepIsRefused(t *testing.T) {
	for name, data := range map[string]string{
		"no colon":           "kernel/fs/fat/fat.ko\n",
		"absolute path":      "/kernel/fs/fat/fat.ko:\n",
		"path of the parent": "../evil.ko:\n",
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := parseDep([]byte(data)); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestACycleOfDependenciesEnds(t *testing.T) {
	m := &modules{builtin: map[string]bool{}}
	var err error
	if m.file, m.deps, err = parseDep([]byte("a.ko: b.ko\nb.ko: a.ko\n")); err != nil {
		t.Fatal(err)
	}
	if files, err := m.loadOrder("a"); err != nil || len(files) != 2 {
		t.Errorf("order = %v, %v", files, err)
	}
}

func TestDriversAreFoundByModalias(t *testing.T) {
	m, _ := debianModules(t)
	for modalias, want := range map[string]string{
		"virtio:d00000001v00001AF4":                             "virtio_net",
		"virtio:d00000002v00001AF4":                             "virtio_blk",
		"pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00": "virtio_pci",
		"pci:v0000DEADd0000BEEFsv00000000sd00000000bc06sc00i00": "",
	} {
		if got := strings.Join(m.drivers(modalias), " "); got != want {
			t.Errorf("%s: drivers %q, want %q", modalias, got, want)
		}
	}
}

func TestColdplugLoadsForTheDevicesOfSys(t *testing.T) {
	m, inserted := debianModules(t)
	sys := t.TempDir()
	for dev, modalias := range map[string]string{
		"pci/devices/0000:00:03.0": "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00",
		"virtio/devices/virtio0":   "virtio:d00000001v00001AF4",
	} {
		dir := filepath.Join(sys, "bus", dev)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "modalias"), []byte(modalias+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m.coldplug(sys)
	if !slices.Contains(*inserted, "virtio_net") || !slices.Contains(*inserted, "virtio_pci") {
		t.Errorf("inserted %v", *inserted)
	}
}

// An overrunSocket has lost uevents, and then one for a disk.
type overrunSocket struct{ reads int }

func (s *overrunSocket) Read(b []byte) (int, error) {
	switch s.reads++; s.reads {
	case 1:
		return 0, &fs.PathError{Op: "read", Path: "uevent", Err: unix.ENOBUFS}
	case 2:
		return copy(b, "add@/devices/x\x00ACTION=add\x00MODALIAS=virtio:d00000002v00001AF4\x00"), nil
	}
	return 0, os.ErrClosed
}

func TestLostUeventsAreMadeUpFor(t *testing.T) {
	m, inserted := debianModules(t)
	sys := t.TempDir()
	write(t, filepath.Join(sys, "bus/virtio/devices/virtio0/modalias"), "virtio:d00000001v00001AF4\n")
	newDisk := make(chan struct{}, 1)
	m.readUevents(&overrunSocket{}, sys, newDisk)
	if !slices.Contains(*inserted, "virtio_net") || len(newDisk) == 0 {
		t.Errorf("devices whose uevent was lost: inserted %v, %d signals", *inserted, len(newDisk))
	}
	if !slices.Contains(*inserted, "virtio_blk") {
		t.Errorf("a device after that: inserted %v", *inserted)
	}
}

func FuzzParseDep(f *testing.F) {
	data, err := os.ReadFile(filepath.Join(debian, "modules.dep"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte("a.ko: a.ko b\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, deps, err := parseDep(data)
		if err != nil {
			return
		}
		m := &modules{file: file, deps: deps}
		for name := range file {
			if files, err := m.loadOrder(name); err == nil && len(files) > len(file) {
				t.Errorf("%q: %d files of %d", name, len(files), len(file))
			}
		}
	})
}

func TestParametersOfModulesOnTheCommandLine(t *testing.T) {
	const line = `quiet watchdog.stop_on_reboot=0 i6300esb.heartbeat=46 usb-storage.quirks="a b" usb_storage.delay_use=1 phase.mode=local watchdog`
	for module, want := range map[string]string{
		"watchdog": "stop_on_reboot=0", "i6300esb": "heartbeat=46", "usb_storage": `quirks="a b" delay_use=1`, "e1000": "",
	} {
		if got := moduleParameters(line, module); got != want {
			t.Errorf("%s: %q, want %q", module, got, want)
		}
	}
}

func TestUeventsAreParsed(t *testing.T) {
	ev := parseUevent([]byte("add@/devices/x\x00ACTION=add\x00SUBSYSTEM=block\x00MODALIAS=virtio:d00000002v00001AF4\x00"))
	if ev["ACTION"] != "add" || ev["SUBSYSTEM"] != "block" || ev["MODALIAS"] != "virtio:d00000002v00001AF4" {
		t.Errorf("%v", ev)
	}
}

func TestHotplugListensForUevents(t *testing.T) {
	m, _ := debianModules(t)
	if err := m.hotplug(t.Context(), make(chan struct{}, 1)); err != nil {
		t.Fatal(err)
	}
}
