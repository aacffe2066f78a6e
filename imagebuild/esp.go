package imagebuild

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/authenticode"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/modes"
)

// The EFI system partition is FAT32 with clusters of 4 KiB. Firmware takes a filesystem of
// less than 65,525 clusters for FAT16; 264 MiB have more.
const (
	mib        = 1 << 20
	minESP     = 264 * mib
	espCluster = 8 // sectors
)

// Media is what WriteESP, WriteUSB and WriteUKI make a bootable medium of.
type Media struct {
	Initramfs                        // of RoleBoot
	Others      []Initramfs          // of other architectures that the medium also boots
	DefaultMode string               // mode that starts without a key press; empty: modes.Default
	Cmdline     string               // added to the kernel command line of every entry
	Signing     *authenticode.Signer // signs for Secure Boot; nil: not signed
	Bootloader  string               // LoaderSystemd, LoaderGRUB, or LoaderBoth for WriteUSB; empty: LoaderSystemd
}

// systems returns the boot initramfs of each architecture.
func (m Media) systems() []Initramfs {
	all := append([]Initramfs{m.Initramfs}, m.Others...)
	for i := range all {
		all[i].Role, all[i].bootloader = RoleBoot, m.Bootloader
	}
	return all
}

// An espTree is the content of an EFI system partition: files by path.
type espTree struct {
	files map[string][]byte
	date  time.Time
	info  MediaInfo

	fallback *espTree // the second partition of LoaderBoth
}

// MediaInfo describes a medium that was built. Sizes are bytes.
type MediaInfo struct {
	Out    string `json:"out"`
	Size   int64  `json:"size"`
	Format string `json:"format,omitempty"` // qcow2, vmdk, vhdx, parallels or iso; empty: raw
	SystemInfo
	Others      []SystemInfo `json:"others,omitempty"` // of a medium for several architectures
	Modes       []string     `json:"modes"`
	DefaultMode string       `json:"default_mode"`
	ESP         int64        `json:"esp_size,omitempty"`
	Cache       int64        `json:"cache_size,omitempty"`
	Disk        string       `json:"disk_guid,omitempty"`
	Date        time.Time    `json:"date"`
}

// SystemInfo describes what a medium boots on machines of one architecture.
type SystemInfo struct {
	Arch      string `json:"arch"`
	Kernel    string `json:"kernel"`
	Initramfs int64  `json:"initramfs_size"`
}

// WriteESP builds an EFI system partition and writes it to out.
func (b *Builder) WriteESP(ctx context.Context, m Media, out string) (*MediaInfo, error) {
	if err := checkOut(out); err != nil {
		return nil, err
	}
	if err := requireTools("mkfs.vfat", "mmd", "zstd"); err != nil {
		return nil, err
	}
	if m.Bootloader == LoaderBoth {
		return nil, optionsf("bootloader both: one partition has one loader, because firmware starts one file of it; use grub, or build a disk with usb")
	}
	tree, err := b.espTree(ctx, m)
	if err != nil {
		return nil, err
	}
	err = atomicfile.Build(out, 0o644, func(image string) error { return b.makeESP(ctx, tree, image) })
	if err != nil {
		return nil, err
	}
	tree.info.Out, tree.info.Size = out, tree.size()
	return &tree.info, nil
}

// espTree makes the files of the partition. With Signing, that is a signed UKI alone: the signature of a
// kernel would not cover the initramfs beside it.
func (b *Builder) espTree(ctx context.Context, m Media) (*espTree, error) {
	if m.Signing == nil {
		return b.menuTree(ctx, m)
	}
	t, image, err := b.uki(ctx, m)
	if err != nil {
		return nil, err
	}
	t.files = map[string][]byte{m.Platform.loaderPath(): image}
	t.info.ESP = t.size()
	return t, nil
}

// menuTree makes the files of a partition with a boot loader and its menu.
func (b *Builder) menuTree(ctx context.Context, m Media) (*espTree, error) {
	if m.DefaultMode == "" {
		m.DefaultMode = modes.Default
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	if err := requireTools(m.loaderTools()...); err != nil {
		return nil, err
	}
	b, err := b.sameDate(ctx, m.systems())
	if err != nil {
		return nil, err
	}
	t := &espTree{files: map[string][]byte{}}
	for _, in := range m.systems() {
		if err := b.addSystem(ctx, in, t, m.Signing != nil); err != nil {
			return nil, err
		}
	}
	if err := b.addLoaders(ctx, m, t); err != nil {
		return nil, err
	}
	if t.fallback != nil {
		t.fallback.date = t.date
	}
	t.info.Modes, t.info.DefaultMode, t.info.ESP, t.info.Date = m.Modes.Available(m.WithTor), m.DefaultMode, t.size(), t.date
	return t, nil
}

// check refuses a medium that cannot boot. It downloads nothing.
func (m Media) check() error {
	if err := checkCmdline(m.Cmdline); err != nil {
		return err
	}
	if err := m.checkLoader(); err != nil {
		return err
	}
	for _, in := range m.systems() {
		if err := in.checkModes(m.DefaultMode, m.Cmdline); err != nil {
			return err
		}
		if err := checkChannel(bootargs.Parse(m.Cmdline).Channel, in.Channels); err != nil {
			return err
		}
		if err := in.checkTor(m.DefaultMode, m.Cmdline); err != nil {
			return err
		}
		if _, err := in.check(); err != nil {
			return err
		}
	}
	return nil
}

// sameDate returns a builder that gives all systems of a medium one date.
func (b *Builder) sameDate(ctx context.Context, systems []Initramfs) (*Builder, error) {
	if len(systems) == 1 {
		return b, nil
	}
	var dates []time.Time
	for _, in := range systems {
		kernel, err := b.Kernel(ctx, in.Platform, in.KernelFrom)
		if err != nil {
			return nil, err
		}
		dates = append(dates, kernel.Time, sourceTime(in.PhaseBoot))
	}
	return b.at(b.date(dates...)), nil
}

// addSystem adds what machines of one architecture boot: loader, kernel and initramfs.
func (b *Builder) addSystem(ctx context.Context, in Initramfs, t *espTree, signed bool) error {
	p := in.Platform
	kernel, err := b.Kernel(ctx, p, in.KernelFrom)
	if err != nil {
		return err
	}
	if text := kernel.kexecWarning(); text != "" {
		b.progress.printf("%s", text)
	}
	if text := kernel.secureBootWarning(); signed && text != "" {
		b.progress.printf("%s", text)
	}
	image, err := readKernel(kernel)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(image, []byte("MZ")) {
		return optionsf("kernel %s: not an EFI program, so firmware cannot start it; build it with CONFIG_EFI_STUB, or name another kernel with --kernel", kernel.Version)
	}
	t.files[p.kernelPath()] = image
	initramfs, built, err := b.initramfs(ctx, in)
	if err != nil {
		return err
	}
	t.files[p.initramfsPath()] = initramfs
	t.date = built.Date
	info := SystemInfo{p.Arch, kernel.Version, built.Size}
	if t.info.Arch == "" {
		t.info.SystemInfo = info
	} else {
		t.info.Others = append(t.info.Others, info)
	}
	return nil
}

// addLoaders adds the loaders that the medium has, each with an entry for each mode.
func (b *Builder) addLoaders(ctx context.Context, m Media, t *espTree) error {
	if m.Bootloader == LoaderGRUB {
		return b.addGRUB(ctx, m, t)
	}
	if m.Bootloader == LoaderBoth {
		t.fallback = &espTree{files: maps.Clone(t.files)}
		if err := b.addGRUB(ctx, m, t.fallback); err != nil {
			return err
		}
	}
	for _, in := range m.systems() {
		if err := b.addLoader(ctx, in.Platform, t); err != nil {
			return err
		}
	}
	return t.addEntries(m)
}

// loaderPackage is the package of systemd-boot, and of its stub for UKIs.
const loaderPackage = "systemd-boot-efi"

func (b *Builder) addLoader(ctx context.Context, p Platform, t *espTree) error {
	dir, err := b.packageFiles(ctx, loaderPackage, p)
	if err != nil {
		return err
	}
	path, err := firstFile(dir, p.loader())
	if err != nil {
		return err
	}
	t.files[p.loaderPath()], err = os.ReadFile(path)
	return err
}

// consoles returns the kernel's console arguments. The last console gets the recovery
// shell: the serial line of a virtual machine, the screen of a real one.
func (p Platform) consoles() string {
	serial := "console=" + p.serial + ",115200"
	if p.Flavour == "generic" {
		return serial + " console=tty0"
	}
	return "console=tty0 " + serial
}

// timeout returns the seconds in which a key shows the menu.
func (p Platform) timeout() string {
	if p.Flavour == "generic" {
		return "3"
	}
	return "1"
}

// addEntries adds the loader's menu with one entry for each mode that the image can boot.
func (t *espTree) addEntries(m Media) error {
	loader := strings.NewReplacer("@TIMEOUT@", m.Platform.timeout(), "@DEFAULT@", defaultEntry(m.DefaultMode))
	t.files[menuPath] = []byte(loader.Replace(dataFile("esp/loader.conf")))
	for i, name := range m.Modes.Available(m.WithTor) {
		mode, err := m.Modes.Load(name)
		if err != nil {
			return err
		}
		for _, in := range m.systems() {
			t.files[entriesPath+"/"+in.Platform.entryName(name)] = []byte(in.Platform.entry(mode.Title, name, i+1, m.Cmdline))
		}
	}
	return nil
}

func (p Platform) entry(title, mode string, order int, cmdline string) string {
	if cmdline != "" {
		cmdline = " " + cmdline
	}
	r := strings.NewReplacer("@ARCH@", p.efi, "@KERNEL@", p.kernelPath(), "@INITRAMFS@", p.initramfsPath(), "@TITLE@", title, "@ORDER@", strconv.Itoa(order), "@CONSOLE@", p.consoles(), "@MODE@", mode, "@CMDLINE@", cmdline)
	return r.Replace(dataFile("esp/entry.conf"))
}

func (t *espTree) names() []string { return slices.Sorted(maps.Keys(t.files)) }

// size returns the size of the partition in bytes: three times the files, so that two renewed boot sets fit
// next to the built one, and at least minESP.
func (t *espTree) size() int64 {
	var sum int64
	for _, data := range t.files {
		sum += int64(len(data))
	}
	return max(minESP, (3*sum/mib+32)*mib)
}

// identity returns a digest of the whole content. Every identifier of the medium is derived
// from it.
func (t *espTree) identity() [32]byte {
	sums := map[string]string{}
	for name, data := range t.files {
		sums[strings.ToLower(name)] = fmt.Sprintf("%x", sha256.Sum256(data)) // as names of FAT are read
	}
	id := identityOf(sums)
	if t.fallback != nil {
		id = identityOfBoth(id, t.fallback.identity())
	}
	return id
}

// identityOfBoth returns the identity of two trees.
func identityOfBoth(first, second [32]byte) [32]byte {
	return sha256.Sum256(append(first[:], second[:]...))
}

// identityOf returns the identity of a tree of files with these digests (SHA-256 in hex).
func identityOf(sums map[string]string) [32]byte {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		fmt.Fprintf(h, "%s\x00%s\x00", name, sums[name])
	}
	return [32]byte(h.Sum(nil))
}

// makeESP writes the filesystem into image, which must exist and be empty.
func (b *Builder) makeESP(ctx context.Context, t *espTree, image string) error {
	defer b.progress.step("EFI system partition")()
	if err := os.Truncate(image, t.size()); err != nil {
		return file.FullDisk(err)
	}
	id := t.identity()
	mkfs := command("mkfs.vfat", "--invariant", "-F", "32", "-s", strconv.Itoa(espCluster), "-n", "PHASE-BOOT",
		"-i", fmt.Sprintf("%08x", binary.BigEndian.Uint32(id[:])), image)
	if err := mkfs.run(ctx); err != nil {
		return err
	}
	tmp, clean, err := b.tempDir()
	if err != nil {
		return err
	}
	defer clean()
	return t.copyTo(ctx, image, tmp)
}

// copyTo copies the files into the filesystem with mtools: first the folders, then the
// files, in sorted order and with the same date.
func (t *espTree) copyTo(ctx context.Context, image, tmp string) error {
	date := t.fatDate()
	env := []string{"MTOOLS_SKIP_CHECK=1", "MTOOLSRC=/dev/null", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", date.Unix())}
	var dirs []string
	for _, name := range t.names() {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if !slices.Contains(dirs, "::/"+dir) {
				dirs = append(dirs, "::/"+dir)
			}
		}
	}
	slices.Sort(dirs)
	if err := command("mmd", append([]string{"-i", image}, dirs...)...).with(env...).run(ctx); err != nil {
		return err
	}
	for _, name := range t.names() {
		local := filepath.Join(tmp, "file")
		if err := os.WriteFile(local, t.files[name], 0o644); err != nil {
			return file.FullDisk(err)
		}
		if err := command("mcopy", "-o", "-i", image, local, "::/"+name).with(env...).run(ctx); err != nil {
			return err
		}
	}
	return nil
}

// fatDate returns the tree's date, or 1980 if it is earlier: FAT has no earlier dates.
func (t *espTree) fatDate() time.Time {
	const first = 315_532_800 // 1980
	return time.Unix(max(t.date.Unix(), first), 0).UTC()
}
