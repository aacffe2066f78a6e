package imagebuild

import (
	"context"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

// Roles of an initramfs.
const (
	RoleBoot   = "boot"   // finds, verifies and starts a release
	RoleTarget = "target" // belongs to a release and mounts its root filesystem
)

// Initramfs is what WriteInitramfs makes an initramfs of.
type Initramfs struct {
	Platform   Platform
	Role       string    // RoleBoot or RoleTarget
	Root       []byte    // root.json, for RoleBoot
	Channel    string    // channel to boot unless the kernel command line names one, for RoleBoot
	Channels   []string  // channels of the repository, which must include Channel; nil: not known
	PhaseBoot  string    // path of the static phase-boot program
	KernelFrom string    // package or folder, see Builder.Kernel
	WithTor    bool      // add Debian's tor, for mode tor; for RoleBoot
	Torrc      []byte    // its torrc, such as bridges; for WithTor
	Modes      modes.Set // the modes that the image can boot, for RoleBoot
	// Authorities are certificate authorities of https mirrors in PEM, beside Debian's, for RoleBoot.
	Authorities []byte

	bootloader string // Media.Bootloader
}

// InitramfsInfo describes an initramfs that was built.
type InitramfsInfo struct {
	Out     string   `json:"out"`
	Size    int64    `json:"size"`
	Role    string   `json:"role"`
	Kernel  string   `json:"kernel"`
	Modules int      `json:"modules"`
	Absent  []string `json:"absent_modules,omitempty"`
	// Firmware is the number of firmware files. FirmwareAbsent are those that the modules name and no
	// package has, FirmwareMissing the packages that apt's lists do not have.
	Firmware        int       `json:"firmware"`
	FirmwareAbsent  []string  `json:"absent_firmware,omitempty"`
	FirmwareMissing []string  `json:"missing_firmware_packages,omitempty"`
	Date            time.Time `json:"date"`
}

// WriteInitramfs builds an initramfs and writes it to out.
func (b *Builder) WriteInitramfs(ctx context.Context, in Initramfs, out string) (*InitramfsInfo, error) {
	if err := checkOut(out); err != nil {
		return nil, err
	}
	if err := requireTools("zstd"); err != nil {
		return nil, err
	}
	data, info, err := b.initramfs(ctx, in)
	if err != nil {
		return nil, err
	}
	info.Out = out
	return info, atomicfile.Write(out, 0o644, data)
}

func (b *Builder) initramfs(ctx context.Context, in Initramfs) ([]byte, *InitramfsInfo, error) {
	list, err := in.check()
	if err != nil {
		return nil, nil, err
	}
	b, used := b.recording()
	kernel, err := b.Kernel(ctx, in.Platform, in.KernelFrom)
	if err != nil {
		return nil, nil, err
	}
	needs := initramfsNeeds
	if in.Role == RoleBoot {
		needs = bootNeeds
	}
	if err := kernel.check(needs); err != nil {
		return nil, nil, err
	}
	program, built, err := readProgram(in.PhaseBoot, in.Platform)
	if err != nil {
		return nil, nil, err
	}
	defer b.progress.step("initramfs " + in.Role)()
	date := b.date(kernel.Time, built)
	a := newArchive()
	addSkeleton(a)
	a.file("init", program, 0o755)
	a.link("bin/phase-boot", "../init") // for the recovery shell
	in.addSettings(a, date)
	if err := b.addBusybox(ctx, in.Platform, a); err != nil {
		return nil, nil, err
	}
	if in.Role == RoleBoot {
		for _, name := range in.loaderPackages() {
			if _, err := b.resolve(ctx, name, in.Platform.debian); err != nil {
				return nil, nil, err
			}
		}
		if err := b.addCertificates(ctx, in, a); err != nil {
			return nil, nil, err
		}
		if text := in.onionWarning(); text != "" {
			b.progress.printf("%s", text)
		}
	}
	if in.WithTor {
		if err := b.addTor(ctx, in, a); err != nil {
			return nil, nil, err
		}
	}
	modules, err := addModules(a, kernel, list)
	if err != nil {
		return nil, nil, err
	}
	files, err := b.firmware(ctx, in.Platform, modules)
	if err != nil {
		return nil, nil, err
	}
	for name, data := range files.files {
		a.file("lib/firmware/"+name, data, 0o644)
	}
	a.text(inputsPath, used.debs.Text())
	for _, text := range []string{modules.absentWarning(), files.warning()} {
		if text != "" {
			b.progress.printf("initramfs %s: %s", in.Role, text)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	data, err := b.compressed(ctx, in.Platform, a, date)
	return data, &InitramfsInfo{
		Size: int64(len(data)), Role: in.Role, Kernel: kernel.Version, Modules: len(modules.files), Absent: modules.absent,
		Firmware: len(files.files), FirmwareAbsent: files.absent, FirmwareMissing: files.missing, Date: date,
	}, err
}

// check refuses an input that cannot boot and returns the list of modules. It downloads
// nothing.
func (in Initramfs) check() ([]listedModule, error) {
	if err := in.checkTor("", ""); err != nil {
		return nil, err
	}
	switch in.Role {
	case RoleTarget:
		if len(in.Modes.Own()) > 0 {
			return nil, optionsf("mode: only the boot role has boot modes; remove it")
		}
		if in.WithTor {
			return nil, optionsf("with-tor: only the boot role uses Tor; remove it")
		}
		return in.Platform.modules(partTarget), nil
	case RoleBoot:
		if _, err := manifest.RoleName(in.Channel, in.Platform.Arch); err != nil { // also of ""
			return nil, optionsf("%v", err)
		}
		if _, err := manifest.ParseRoot(in.Root); err != nil { // the machine would refuse it
			return nil, err
		}
		if err := checkChannel(in.Channel, in.Channels); err != nil {
			return nil, err
		}
		if _, err := parseAuthorities(in.Authorities); err != nil {
			return nil, err
		}
		return in.Platform.modules(partBoot), nil
	}
	return nil, optionsf("role %.40q: must be %s or %s", in.Role, RoleBoot, RoleTarget)
}

// addSkeleton adds the folders and the two device nodes that PID 1 needs before its first
// mount.
func addSkeleton(a *archive) {
	for _, dir := range []string{"bin", "cache", "dev", "etc", "mnt", "newroot", "proc", "root", "run", "sys", "var"} {
		a.dir(dir, 0o755)
	}
	a.dir("tmp", 0o1777)
	a.link("sbin", "bin")
	a.device("dev/console", 0o600, 5, 1)
	a.device("dev/null", 0o666, 1, 3)
}

// addSettings adds /etc/phase, which phase-boot reads when it starts.
func (in Initramfs) addSettings(a *archive, date time.Time) {
	a.text("etc/phase/role", in.Role+"\n")
	a.text("etc/phase/build-time", strconv.FormatInt(date.Unix(), 10)+"\n")
	if in.Role == RoleBoot {
		a.file("etc/phase/root.json", in.Root, 0o644)
		a.text("etc/phase/channel", in.Channel+"\n")
		in.addModes(a)
	}
}

// inputsPath is the file of an initramfs that lists the packages of which it and its medium were made.
const inputsPath = "etc/phase/inputs"

// loaderPackages are the packages of the medium's boot loader, which it lists too. The loader is not in
// the initramfs, but the medium has no other place for a list.
func (in Initramfs) loaderPackages() []string {
	grub := grubPackage(in.Platform)
	switch in.bootloader {
	case LoaderGRUB:
		return []string{grub}
	case LoaderBoth:
		return []string{loaderPackage, grub}
	}
	return []string{loaderPackage}
}

// Busybox returns the path of Debian's static busybox for an architecture.
func (b *Builder) Busybox(ctx context.Context, arch string) (string, error) {
	p, err := ParsePlatform(arch, "vm")
	if err != nil {
		return "", err
	}
	dir, err := b.packageFiles(ctx, "busybox-static", p)
	if err != nil {
		return "", err
	}
	return firstFile(dir, "bin/busybox", "usr/bin/busybox")
}

func (b *Builder) addBusybox(ctx context.Context, p Platform, a *archive) error {
	path, err := b.Busybox(ctx, p.Arch)
	if err != nil {
		return err
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	a.file("bin/busybox", program, 0o755)
	for _, applet := range dataWords("initramfs/applets") {
		a.link("bin/"+applet, "busybox")
	}
	return nil
}

// packageFiles returns a folder with the files of a Debian package.
func (b *Builder) packageFiles(ctx context.Context, name string, p Platform) (string, error) {
	d, err := b.resolve(ctx, name, p.debian)
	if err != nil {
		return "", err
	}
	return b.unpack(ctx, d)
}

// firstFile returns the path of the first of names that exists below dir.
func firstFile(dir string, names ...string) (string, error) {
	for _, name := range names {
		if path := filepath.Join(dir, name); isFile(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("package in %s: %s: %w", dir, names[0], fs.ErrNotExist)
}

func addModules(a *archive, k *Kernel, list []listedModule) (*moduleSet, error) {
	set, err := chooseModules(k, list)
	if err != nil {
		return nil, err
	}
	base := "lib/modules/" + k.Version + "/"
	for _, m := range set.files {
		a.file(base+m.path, m.data, 0o644)
	}
	a.file(base+"modules.builtin", set.builtinText, 0o644)
	a.text(base+"modules.dep", set.dep())
	a.text(base+"modules.alias", set.alias())
	a.text("etc/phase/modules", strings.Join(set.start, "\n")+"\n")
	return set, nil
}

// readProgram reads a static program for this platform. It also returns the commit time of
// its source, as recorded by the Go toolchain, or zero.
func readProgram(path string, p Platform) ([]byte, time.Time, error) {
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, unix.EISDIR):
		return nil, time.Time{}, optionsf("program %s: is a directory; name a file", path)
	case err != nil:
		return nil, time.Time{}, err
	}
	file, err := elf.Open(path)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("program %s: not an ELF program: %w", path, cas.ErrCorrupt)
	}
	defer file.Close()
	if file.Machine.String() != p.machine {
		return nil, time.Time{}, optionsf("program %s: built for %v; build it for %s", path, file.Machine, p.Arch)
	}
	for _, part := range file.Progs {
		if part.Type == elf.PT_INTERP {
			return nil, time.Time{}, optionsf("program %s: needs shared libraries; build it with CGO_ENABLED=0", path)
		}
	}
	return data, sourceTime(path), nil
}

func sourceTime(path string) time.Time {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			if t, err := time.Parse(time.RFC3339, s.Value); err == nil {
				return t
			}
		}
	}
	return time.Time{}
}
