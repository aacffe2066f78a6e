//go:build machine

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// grubShown is what GRUB writes above its menu.
const grubShown = "GNU GRUB"

// GRUB alone boots a machine to the receipt, in the mode that the menu starts.
func TestMachineBootsWithGRUB(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	l.host().publish("--dht", "off")
	m := l.boot(l.image("--bootloader", "grub", "--default-mode", "local"))
	m.waitFor([]string{grubShown, "Phase Boot (local", "] command line: mode local"})
	m.waitFor(bootMarks(), refused)
}

// On a disk with both loaders, the firmware starts GRUB of the second partition if it finds no program in the first one.
func TestMachineFallsBackToGRUB(t *testing.T) {
	t.Parallel()
	image := newLAN(t).image("--bootloader", "both", "--default-mode", "local", "--size", "600M")
	for name, damage := range map[string]func(t *testing.T, disk string){
		"no loader": func(t *testing.T, disk string) {
			mtools(t, "mdel", "-i", disk+"@@1M", "::/EFI/BOOT/BOOTX64.EFI")
		},
		"a loader of zeros": func(t *testing.T, disk string) {
			zeros := filepath.Join(t.TempDir(), "zeros")
			if err := os.WriteFile(zeros, make([]byte, 128<<10), 0o600); err != nil {
				t.Fatal(err)
			}
			mtools(t, "mcopy", "-o", "-i", disk+"@@1M", zeros, "::/EFI/BOOT/BOOTX64.EFI")
		},
		"no file system": func(t *testing.T, disk string) { overwrite(t, disk, 1<<20, make([]byte, 1<<20)) },
	} {
		t.Run(name, func(t *testing.T) {
			disk := filepath.Join(t.TempDir(), "disk.img")
			must(t, "cp", "--sparse=always", image, disk)
			damage(t, disk)
			l := newLAN(t)
			l.host().publish("--dht", "off")
			m := l.powerOn(disk)
			m.waitFor([]string{grubShown, "] command line: mode local"})
			if name == "no file system" {
				m.waitFor(bootMarks(), refused)
			}
			m.powerOff()
		})
	}
	t.Run("no damage", func(t *testing.T) {
		newLAN(t).boot(image).waitFor([]string{"Phase Boot (local", "] command line: mode local"}, grubShown)
	})
}

// GRUB of one disk boots machines of both architectures, and is the fallback of both.
func TestMachineGRUBOfOneDiskBootsBothArchitectures(t *testing.T) {
	t.Parallel()
	image := fx.path(grubImage)
	must(t, fx.bin("phase-image"), "verify", "--root", fx.path(bothRepo, "root.json"), image)
	for loader, c := range map[string]struct {
		arch  string
		marks []string
	}{
		"BOOTX64.EFI":  {"x86_64", bootMarks()},
		"BOOTAA64.EFI": {"arm64", armMarks()},
	} {
		t.Run(c.arch, func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			l.host().publishBoth()
			disk := filepath.Join(l.dir, "disk.img")
			must(t, "cp", "--sparse=always", image, disk)
			mtools(t, "mdel", "-i", disk+"@@1M", "::/EFI/BOOT/"+loader)
			m := l.startArch(c.arch, disk)
			m.waitFor(append([]string{grubShown, "] command line: mode local"}, c.marks[1:]...), refused)
		})
	}
}

func mtools(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, bytes.TrimSpace(out))
	}
}
