//go:build machine

package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A hardware is one machine of docs/tested-hardware.md. docs/hardware_test.go compares the literals with the
// page.
type hardware struct {
	name   string // of the subtest
	card   string // on the page: QEMU's network card
	medium string // on the page: what it boots from
	screen string // QEMU's -vga

	disk   []string // QEMU's arguments for the drive disk0
	bus    []string // of the card, before it
	loaded bool     // the firmware has no driver for the medium: QEMU loads kernel and initramfs
	udev   bool     // its release has the root filesystem of flavour generic; that of the others has busybox and no modules
}

var hardwareRows = []hardware{
	{
		name: "kvm", card: "virtio-net-pci", medium: "virtio-blk", screen: "virtio", udev: true,
		disk: []string{"-device", "virtio-blk-pci,drive=disk0,bootindex=0"},
	},
	{
		name: "stick", card: "e1000", medium: "USB stick on xHCI", screen: "std",
		disk: []string{"-device", "qemu-xhci", "-device", "usb-storage,drive=disk0,bootindex=0,removable=on"},
	},
	{
		name: "nvme", card: "e1000e", medium: "NVMe", screen: "qxl",
		disk: []string{"-device", "nvme,drive=disk0,serial=phase,bootindex=0"},
	},
	{
		name: "sata", card: "rtl8139", medium: "SATA on AHCI", screen: "none",
		disk: []string{"-device", "ide-hd,drive=disk0,bus=ide.0,bootindex=0"},
	},
	{
		name: "vmware", card: "vmxnet3", medium: "SCSI on pvscsi", screen: "vmware",
		bus:    []string{"-device", "qemu-xhci"}, // the boot waits for disks of a machine with USB
		disk:   []string{"-device", "pvscsi", "-device", "scsi-hd,drive=disk0"},
		loaded: true,
	},
	{
		name: "sd", card: "usb-net", medium: "SD card on sdhci-pci", screen: "none", udev: true,
		bus:    []string{"-device", "qemu-xhci"},
		disk:   []string{"-device", "sdhci-pci", "-device", "sd-card,drive=disk0"},
		loaded: true,
	},
	{
		name: "scsi", card: "igb", medium: "SCSI on virtio-scsi", screen: "none",
		disk: []string{"-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=disk0,bootindex=0"},
	},
	{
		name: "raid", card: "tulip", medium: "SAS on megasas", screen: "none",
		bus:    []string{"-device", "qemu-xhci"}, // the boot waits for disks of a machine with USB
		disk:   []string{"-device", "megasas", "-device", "scsi-hd,drive=disk0"},
		loaded: true,
	},
}

// A trial is what a machine has shown.
type trial struct {
	hardware
	state string
	took  time.Duration // from power-on to the system of the target
	words string
}

func (t trial) String() string {
	return fmt.Sprintf("%-8s %-16s %-22s %-8s %6.0f s  %-7s %s", t.name, t.card, t.medium, t.screen, t.took.Seconds(), t.state, t.words)
}

// TestMachineHardware boots a machine of each kind from the image of flavour generic into a release of
// flavour generic, whose target must have its network. It prints a table.
func TestMachineHardware(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var done []trial
	t.Cleanup(func() {
		fmt.Printf("%-8s %-16s %-22s %-8s %8s  %s\n", "machine", "network card", "boot medium", "screen", "target", "")
		for _, h := range hardwareRows {
			if i := slices.IndexFunc(done, func(d trial) bool { return d.name == h.name }); i >= 0 {
				fmt.Println(done[i])
			}
		}
		fmt.Printf("%d machines, %s at a time\n", len(done), flag.Lookup("test.parallel").Value)
	})
	full, small := genericReleases(t)
	models, err := exec.Command("qemu-system-x86_64", "-device", "help").Output()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("rows", func(t *testing.T) {
		for _, h := range hardwareRows {
			t.Run(h.name, func(t *testing.T) {
				t.Parallel()
				d := trial{hardware: h, state: "FAILED"}
				t.Cleanup(func() {
					mu.Lock()
					defer mu.Unlock()
					done = append(done, d)
					fmt.Println(d)
				})
				if !bytes.Contains(models, []byte(`name "`+h.card+`"`)) {
					d.card, d.words = theUsualCard, "this QEMU has no "+h.card
				}
				if h.udev {
					d.run(t, full, "plasmd: receipt {")
				} else {
					d.run(t, small, "small system: up")
				}
			})
		}
	})
}

// theUsualCard is what a machine gets if QEMU has no card of its row.
const theUsualCard = "e1000e"

// genericReleases publishes two releases of flavour generic: one with its root filesystem, and one with a small
// root filesystem, which has no modules.
func genericReleases(t *testing.T) (full, small *published) {
	t.Helper()
	dir := t.TempDir()
	must(t, "cp", "-r", fx.path(genericArtifacts)+"/.", dir)
	full, small = publication(t), publication(t)
	full.signOwn(t, dir, "2026.12-generic")
	must(t, "rm", dir+"/rootfs")
	smallRootfs(t, dir+"/rootfs")
	small.signOwn(t, dir, "2026.12-small")
	return full, small
}

// smallInit is the init of the small root filesystem.
const smallInit = `#!/bin/busybox sh
export PATH=/bin
exec >/dev/console 2>&1
network
echo "small system: up"
exec sleep 100000
`

// smallRootfs makes a root filesystem of busybox with the script of SHIP-YOUR-OWN-OS.md.
func smallRootfs(t *testing.T, out string) {
	t.Helper()
	tree := t.TempDir()
	script := strings.ReplaceAll(networkScript(t), " /phase/network/", " /run/phase/network/")
	script = strings.ReplaceAll(script, "</phase/network/", "</run/phase/network/")
	must(t, "mkdir", "-p", tree+"/bin", tree+"/sbin", tree+"/etc")
	for name, text := range map[string]string{"sbin/init": smallInit, "bin/network": script} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	must(t, "sh", "-ec", `cp "$(command -v busybox)" "$1/bin/busybox"; for name in sh cat ip mkdir cp hostname sleep; do ln -s busybox "$1/bin/$name"; done`, "sh", tree)
	must(t, "mksquashfs", tree, out, "-quiet", "-no-progress", "-all-root", "-noappend", "-comp", "zstd", "-Xcompression-level", "1")
}

// run boots the machine to the last text and asks its target for an answer.
func (d *trial) run(t *testing.T, release *published, last string) {
	l := newLAN(t)
	release.serve(l.host(), "--identity", filepath.Join(l.dir, "peer.key"))
	disk, monitor := filepath.Join(l.dir, "machine.img"), filepath.Join(l.dir, "qmp")
	must(t, "cp", "--sparse=always", fx.path("generic.img"), disk)
	args := append(monitorAt(monitor), "-vga", d.screen, "-serial", "stdio", "-netdev", "tap,id=lan,script=no,downscript=no,ifname="+l.tap())
	args = append(append(args, d.disk...), d.bus...)
	card := d.card + ",netdev=lan,mac=00:16:3e:00:00:01"
	if d.card != "usb-net" {
		card += ",romfile="
	}
	args = append(args, "-device", card)
	marks := []string{"BdsDxe: starting"}
	if d.loaded {
		args, marks = append(args, loadedByQEMU(t, disk)...), nil
	}
	on := time.Now()
	m := l.startQEMUWith([]string{"MEM=1536", "NET=none", "DISK=none"}, disk, args...).connectMonitor(monitor, nil)
	m.waitFor(append(marks, "] cache: /dev/", "(rw)", "] network: ", "] resolve: ", started), refused, "UEFI Interactive Shell")
	before := m.picture(d.screen)
	m.waitFor([]string{started, "Linux version", "phase-boot: target: release ", "] switch root: ", last})
	d.took = time.Since(on)
	l.answers(m.address())
	if before != nil && bytes.Equal(before, m.picture(d.screen)) {
		t.Errorf("the target shows nothing on the screen %q", d.screen)
	}
	m.saveScreenshotOf(d.screen, "hardware-"+d.name)
	m.powerOff()
	d.state = "ok"
}

// loadedByQEMU returns QEMU's arguments to start the kernel and the initramfs of an image.
func loadedByQEMU(t *testing.T, image string) []string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"vmlinuz", "initramfs.zst", "local.conf"} {
		folder := map[bool]string{true: "loader/entries", false: "phase"}[strings.HasSuffix(name, ".conf")]
		mtools(t, "mcopy", "-i", image+"@@1M", "::/"+folder+"/"+name, filepath.Join(dir, name))
	}
	_, line, _ := strings.Cut(string(readFile(t, filepath.Join(dir, "local.conf"))), "\noptions ")
	line, _, _ = strings.Cut(line, "\n")
	return []string{"-kernel", filepath.Join(dir, "vmlinuz"), "-initrd", filepath.Join(dir, "initramfs.zst"), "-append", strings.TrimSpace(line)}
}

// answers waits until the machine at an address refuses a connection, which its kernel does when the system
// has configured the network.
func (l *lan) answers(address string) {
	l.t.Helper()
	l.inside(func() error {
		ctx, stop := context.WithTimeout(context.Background(), 3*time.Minute)
		defer stop()
		for {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", address+":9")
			if err == nil {
				conn.Close()
				return nil
			}
			if errors.Is(err, syscall.ECONNREFUSED) {
				return nil
			}
			if ctx.Err() != nil {
				return fmt.Errorf("the target has no network: %w", err)
			}
		}
	})
}

// picture returns the pixels of the screen, nil if there is none.
func (s *screen) picture(vga string) []byte {
	s.t.Helper()
	if vga == "none" {
		return nil
	}
	return s.screenshot().Pix
}

func (s *screen) saveScreenshotOf(vga, name string) {
	s.t.Helper()
	if vga != "none" {
		s.saveScreenshot(name)
	}
}
