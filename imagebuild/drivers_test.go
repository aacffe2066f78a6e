package imagebuild

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

func TestGenericKernelHasTheListedModules(t *testing.T) {
	b, p := testBuilder(t), testPlatform(t, "generic")
	kernel, err := b.Kernel(t.Context(), p, "")
	if err != nil {
		t.Fatal(err)
	}
	everywhere := []string{
		"e1000", "e1000e", "igb", "igc", "r8169", "8139cp", "8139too", "ne2k_pci", "tulip", "e100", "pcnet32", "tg3", "ixgbe", "mlx5_core", "virtio_net", "vmxnet3", "hv_netvsc", "xen_netfront",
		"usbnet", "cdc_ether", "rndis_host", "r8152", "asix", "xhci_pci", "ahci", "ata_generic", "nvme", "vmd", "sdhci_pci", "sdhci_acpi", "mmc_block", "megaraid_sas", "mpt3sas", "mptspi", "sd_mod",
		"vmw_pvscsi", "hv_storvsc", "usbhid", "hid_apple", "iTCO_wdt", "i6300esb", "overlay", "squashfs",
	}
	for part, c := range map[string]struct{ with, without []string }{
		partBoot:   {[]string{"usb_storage", "uas", "ums_realtek", "vfat", "ext4", "algif_hash"}, []string{"overlay", "squashfs", "sr_mod"}},
		partTarget: {nil, []string{"usb_storage", "vfat", "sr_mod"}},
		partRootfs: {[]string{"usb_storage", "uas", "xfs", "bridge", "nf_tables", "kvm_intel", "bochs", "sr_mod"}, nil},
	} {
		set, err := chooseModules(kernel, p.modules(part))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range append(slices.Clone(everywhere), c.with...) {
			if set.files[name] == nil && !set.builtin[name] && !slices.Contains(c.without, name) {
				t.Errorf("%s: no %s", part, name)
			}
		}
		for _, name := range append(c.without, "qla2xxx", "lpfc", "mlxsw_spectrum", "amdgpu", "iwlwifi", "scsi_debug", "softdog") {
			if set.files[name] != nil {
				t.Errorf("%s: %s", part, name)
			}
		}
		t.Logf("%s: %d modules", part, len(set.files))
		if len(set.absent) > 0 {
			t.Errorf("%s: absent: %v", part, set.absent)
		}
	}
}

func TestModulesOfAFolderAreTakenButThoseLeftOut(t *testing.T) {
	s := &moduleSet{paths: map[string]string{"a": "kernel/drivers/net/a.ko", "b_c": "kernel/drivers/net/wan/b-c.ko.xz", "d": "kernel/drivers/network/d.ko", "e": "kernel/drivers/net/e.ko"}}
	list := parseModuleList("drivers/net/\n-drivers/net/wan/\n-e\n", "x86_64")
	var taken []string
	for _, name := range s.inFolder(list[0].name) {
		if !s.leavesOut(list, name) {
			taken = append(taken, name)
		}
	}
	if !slices.Equal(taken, []string{"a"}) {
		t.Errorf("taken: %q", taken)
	}
}

// firmwareSet is a set of modules that name firmware files.
func firmwareSet(names ...string) *moduleSet {
	return &moduleSet{files: map[string]*module{"m": {info: modinfo{firmware: names}}}}
}

func TestFirmwareIsWhatTheModulesName(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		writeBelow(filepath.Join(first, "usr/lib/firmware"), "card.bin", []byte("card")),
		writeBelow(filepath.Join(first, "usr/lib/firmware"), "unnamed.bin", []byte("unnamed")),
		writeBelow(filepath.Join(second, "lib/firmware"), "card.bin", []byte("another")),
		writeBelow(filepath.Join(second, "lib/firmware"), "maker/packed-1.bin.zst", encoder.EncodeAll([]byte("packed"), nil)),
		os.Symlink("packed-1.bin.zst", filepath.Join(second, "lib/firmware/maker/packed.bin.zst")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	f := &firmware{files: map[string][]byte{}}
	if err := f.take([]string{first, second}, firmwareSet("maker/packed.bin", "card.bin", "none.bin")); err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{"card.bin": []byte("card"), "maker/packed.bin": []byte("packed")}
	if !maps.EqualFunc(f.files, want, bytes.Equal) || !slices.Equal(f.absent, []string{"none.bin"}) {
		t.Errorf("files %q, absent %q", f.files, f.absent)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(first, "usr/lib/firmware/out.bin")); err != nil {
		t.Fatal(err)
	}
	if err := f.take([]string{first}, firmwareSet("out.bin")); err == nil {
		t.Error("a link out of the package was followed")
	}
}

func TestMissingFirmwarePackagesAreNamed(t *testing.T) {
	f := &firmware{}
	if got := f.warning(); got != "" {
		t.Errorf("none is missing: %q", got)
	}
	f.missing = []string{"firmware-a", "firmware-b"}
	if got := f.warning(); !strings.Contains(got, "firmware-a, firmware-b") || !strings.Contains(got, "non-free-firmware") || strings.Contains(got, "\n") {
		t.Errorf("without the component: %q", got)
	}
	f.nonFree = true
	if got := f.warning(); !strings.Contains(got, "firmware-a") || strings.Contains(got, "non-free-firmware") {
		t.Errorf("with the component: %q", got)
	}
}

// The root filesystem of flavour generic has the indexes of depmod, which udev reads; they are the same
// each time.
func TestDriversOfARootfsHaveIndexes(t *testing.T) {
	b := testBuilder(t)
	kernel, err := b.Kernel(t.Context(), testPlatform(t, "vm"), "")
	if err != nil {
		t.Fatal(err)
	}
	set, err := chooseModules(kernel, parseModuleList("virtio_net\nvirtio_pci\nsquashfs\n", "x86_64"))
	if err != nil {
		t.Fatal(err)
	}
	var trees []map[string][]byte
	for range 2 {
		d := &drivers{files: map[string][]byte{}, version: kernel.Version}
		if err := b.addTree(t.Context(), d, set); err != nil {
			t.Fatal(err)
		}
		trees = append(trees, d.files)
	}
	if !maps.EqualFunc(trees[0], trees[1], bytes.Equal) {
		t.Error("two runs differ")
	}
	dir := "usr/lib/modules/" + kernel.Version + "/"
	if dep := string(trees[0][dir+"modules.dep"]); !strings.Contains(dep, "kernel/drivers/net/virtio_net.ko: ") || strings.Contains(dep, "vfat") {
		t.Errorf("modules.dep: %q", dep)
	}
	if len(trees[0][dir+"modules.alias.bin"]) == 0 || len(trees[0][dir+"kernel/drivers/net/virtio_net.ko"]) == 0 {
		t.Errorf("files: %q", slices.Sorted(maps.Keys(trees[0])))
	}
}

func TestFormatOnlyARootfsWithModulesHasUnitsForThem(t *testing.T) {
	for flavour, want := range map[string]bool{"vm": true, "generic": false} {
		l, err := newLayer(testPlatform(t, flavour), nil, time.Unix(1e9, 0))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"modprobe@.service", "systemd-networkd.service.d/no-udev.conf"} {
			if _, found := l.files[units+name]; found != want {
				t.Errorf("%s: %s: %v", flavour, name, found)
			}
		}
		if _, found := l.files[units+"systemd-networkd.service.d/phase.conf"]; !found {
			t.Errorf("%s: no phase.conf", flavour)
		}
	}
}
