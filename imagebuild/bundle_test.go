package imagebuild

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/imagebuild/diskformat"
)

func TestAttackABundleThatBootsAnotherDisk(t *testing.T) {
	b := testBuilder(t)
	raw := shared(t, "disk.img", validDisk)
	other := copyOf(t, raw)
	patch(t, other, firstPartition+minESP+20*mib, []byte("another cache"))
	image := filepath.Join(bundleDisk, bundleImage)
	replace := func(name, old, new string) func(string) error {
		return func(dir string) error {
			path := filepath.Join(dir, name)
			text, err := os.ReadFile(path)
			if !strings.Contains(string(text), old) {
				return fmt.Errorf("%s has no %q", name, old)
			}
			return errors.Join(err, os.WriteFile(path, []byte(strings.ReplaceAll(string(text), old, new)), 0o600))
		}
	}
	for name, change := range map[string]func(dir string) error{
		"":                       func(string) error { return nil },
		"another disk":           replace(machineConfig, "<SystemName>"+bundleDisk, "<SystemName>/other.hdd"),
		"a second disk":          replace(machineConfig, "</Hdd>", "</Hdd><Hdd><SystemName>/other.hdd</SystemName></Hdd>"),
		"another image":          replace(filepath.Join(bundleDisk, diskDescriptor), bundleImage, "/other.hds"),
		"a plain image":          replace(filepath.Join(bundleDisk, diskDescriptor), "Compressed", "Plain"),
		"another file":           func(dir string) error { return os.WriteFile(filepath.Join(dir, "x"), nil, 0o600) },
		"another file of a disk": func(dir string) error { return os.WriteFile(filepath.Join(dir, bundleDisk, "x"), nil, 0o600) },
		"another folder":         func(dir string) error { return os.Mkdir(filepath.Join(dir, "x"), 0o700) },
		"no settings":            func(dir string) error { return os.Remove(filepath.Join(dir, bundleDisk, diskDescriptor)) },
		"a link to settings": func(dir string) error {
			path := filepath.Join(dir, machineConfig)
			return errors.Join(os.Rename(path, filepath.Join(t.TempDir(), "x")), os.Symlink("/dev/zero", path))
		},
		"a link to an image": func(dir string) error {
			path, moved := filepath.Join(dir, image), filepath.Join(t.TempDir(), bundleImage)
			return errors.Join(os.Rename(path, moved), os.Symlink(moved, path))
		},
		"the image of another disk": func(dir string) error {
			_, err := encode(t.Context(), other, 300*mib, diskformat.Parallels, bundleImage, filepath.Join(dir, image))
			return err
		},
	} {
		bundle := formatOf(t, b, raw, diskformat.Parallels)
		if err := change(bundle); err != nil {
			t.Fatal(err)
		}
		_, err := b.Verify(t.Context(), bundle)
		if name == "" && err != nil {
			t.Fatalf("the unchanged one: %v", err)
		}
		if name != "" && !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheNameOfAFolderMayEndWithASlash(t *testing.T) {
	b, dir := testBuilder(t), t.TempDir()
	if _, err := b.ConvertDisk(t.Context(), shared(t, "disk.img", validDisk), diskformat.Parallels, filepath.Join(dir, "vm.hdd")+"/"); err != nil {
		t.Error(err)
	}
	if _, err := b.WriteKeys(t.Context(), testPlatform(t, "vm"), filepath.Join(dir, "keys")+"/"); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 || left[0].Name() != "keys" || left[1].Name() != "vm.hdd" {
		t.Errorf("left: %v, %v", left, err)
	}
}

// Each element of the descriptor has the value that QEMU's docs/interop/prl-xml asks for. The elements
// that it does not describe are those of the programs that write such disks; no reader uses them.
func TestDescriptorOfAParallelsDiskIsAsDocumented(t *testing.T) {
	b := testBuilder(t)
	out := filepath.Join(t.TempDir(), "vm.hdd")
	if err := b.writeFormat(t.Context(), shared(t, "disk.img", validDisk), 300*mib, diskformat.Parallels, out); err != nil {
		t.Fatal(err)
	}
	info := judge(t, "qemu-img", "info", "-f", "parallels", filepath.Join(out, bundleImage))
	if !strings.Contains(info, "(314572800 bytes)") {
		t.Errorf("qemu-img: %s", info)
	}
	f, err := os.Open(filepath.Join(out, diskDescriptor))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := elements(t, f)
	const top = "{5fbaabe3-6958-40ff-92a7-860e329aab41}"
	documented := map[string]string{
		"Disk_Parameters/Disk_size": "614400", "Disk_Parameters/Cylinders": "1200", "Disk_Parameters/Heads": "16",
		"Disk_Parameters/Sectors": "32", "Disk_Parameters/Padding": "0",
		"StorageData/Storage/Start": "0", "StorageData/Storage/End": "614400", "StorageData/Storage/Blocksize": "2048",
		"StorageData/Storage/Image/GUID": top, "StorageData/Storage/Image/Type": "Compressed", "StorageData/Storage/Image/File": bundleImage,
		"Snapshots/Shot/GUID": top, "Snapshots/Shot/ParentGUID": "{00000000-0000-0000-0000-000000000000}",
	}
	if 1200*16*32 != 614400 {
		t.Error("the product of cylinders, heads and sectors must be the size")
	}
	more := []string{"Disk_Parameters/PhysicalSectorSize", "Disk_Parameters/Encryption/Engine", "Disk_Parameters/Encryption/Data", "Disk_Parameters/UID", "Disk_Parameters/Name", "Disk_Parameters/Miscellaneous/CompatLevel", "Disk_Parameters/Miscellaneous/Bootable", "Disk_Parameters/Miscellaneous/SuspendState"}
	for name, value := range got {
		if want, known := documented[name]; known && value != want || !known && !slices.Contains(more, name) {
			t.Errorf("%s is %q, want %q", name, value, want)
		}
	}
	for name := range documented {
		if _, there := got[name]; !there {
			t.Errorf("no %s", name)
		}
	}
	passed(t, "parallels", "elements")
}

// elements returns the texts of an XML file's innermost elements by path. Two equal paths are an error.
func elements(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	all, path, text, leaf := map[string]string{}, []string{}, "", false
	for d := xml.NewDecoder(r); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			path, text, leaf = append(path, e.Name.Local), "", true
			if len(path) == 1 && (e.Name.Local != "Parallels_disk_image" || len(e.Attr) != 1 || e.Attr[0].Name.Local != "Version" || e.Attr[0].Value != "1.0") {
				t.Errorf("%+v", e)
			}
		case xml.CharData:
			text += string(e)
		case xml.EndElement:
			if name := strings.Join(path[1:], "/"); leaf {
				if _, twice := all[name]; twice {
					t.Errorf("%s twice", name)
				}
				all[name] = text
			}
			path, leaf = path[:len(path)-1], false
		}
	}
}
