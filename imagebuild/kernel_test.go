package imagebuild

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootfile/bootfiletest"
)

// A kernel package, the folder that it was unpacked to, and a folder that has the modules in another
// place give the same initramfs as the package that Debian's lists name.
func TestAKernelIsTakenFromAPackageOrAFolder(t *testing.T) {
	b, dir := testBuilder(t), t.TempDir()
	kernel, err := b.Kernel(t.Context(), testPlatform(t, "vm"), "")
	if err != nil {
		t.Fatal(err)
	}
	folder, usr, pack := filepath.Join(dir, "folder"), filepath.Join(dir, "usr"), filepath.Join(dir, "own.deb")
	judge(t, "cp", "-al", kernel.dir, folder)
	judge(t, "cp", "-al", kernel.dir, usr)
	judge(t, "mkdir", "-p", usr+"/usr", folder+"/DEBIAN")
	judge(t, "mv", usr+"/lib", usr+"/usr/lib")
	judge(t, "mv", filepath.Join(usr, kernel.Image), filepath.Join(usr, "usr", kernel.Modules, "vmlinuz"))
	write(t, folder+"/DEBIAN/control", "Package: linux-image-own\nVersion: 1\nArchitecture: amd64\nMaintainer: x <x@localhost>\nDescription: x\n")
	judge(t, "dpkg-deb", "-Znone", "--build", folder, pack)

	in := Initramfs{Platform: testPlatform(t, "vm"), Role: RoleTarget, PhaseBoot: testProgram(t, b)}
	var want []byte
	for _, from := range []string{folder, usr, pack} { // the initramfs of a package of Debian lists that package
		in.KernelFrom = from
		out := filepath.Join(dir, "initramfs")
		info, err := b.WriteInitramfs(t.Context(), in, out)
		if err != nil {
			t.Fatalf("%q: %v", from, err)
		}
		got := read(t, out)
		if want == nil {
			want = got
		}
		if !bytes.Equal(got, want) || info.Kernel != kernel.Version || info.Modules == 0 {
			t.Errorf("%q: another initramfs: %+v", from, info)
		}
	}
}

// fakeKernel writes a folder with a kernel that has a version and no code, whose modules are built in.
func fakeKernel(t *testing.T, dir, version string) {
	t.Helper()
	body := append([]byte(version+" (x) #1\x00"), make([]byte, 128-len(version)-8)...)
	image := bootfiletest.Kernel("x86_64", string(body))
	image[0x20f] = 2 // the version is after the header
	write(t, filepath.Join(dir, "boot/vmlinuz-"+version), string(image))
	builtin := ""
	for _, m := range parseModuleList(dataFile("kernel/target.modules"), "x86_64") {
		builtin += "kernel/x/" + m.name + ".ko\n"
	}
	write(t, filepath.Join(dir, "lib/modules", version, builtinList), builtin)
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := writeBelow(filepath.Dir(name), filepath.Base(name), []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// A kernel needs no modules: those that are built in are there.
func TestFormatAKernelMayHaveAllDriversBuiltIn(t *testing.T) {
	dir := t.TempDir()
	fakeKernel(t, dir, "9.9")
	k, err := testBuilder(t).Kernel(t.Context(), testPlatform(t, "vm"), dir)
	if err != nil {
		t.Fatal(err)
	}
	set, err := chooseModules(k, parseModuleList(dataFile("kernel/target.modules"), "x86_64"))
	if err != nil || len(set.files) > 0 || len(set.absent) > 0 || len(set.start) > 0 || k.Version != "9.9" {
		t.Errorf("%+v, %+v, %v", k, set, err)
	}
	if err := k.check(bootNeeds); err != nil || k.kexecWarning() != "" {
		t.Errorf("a kernel without its configuration: %v", err)
	}
}

func TestFormatAKernelThatCannotBootIsRefused(t *testing.T) {
	b := testBuilder(t)
	for name, c := range map[string]struct {
		change func(t *testing.T, dir string)
		want   error
		says   string
	}{
		"no kernel":       {func(t *testing.T, dir string) { judge(t, "rm", dir+"/boot/vmlinuz-9.9") }, fs.ErrInvalid, "no file boot/vmlinuz-VERSION"},
		"two kernels":     {func(t *testing.T, dir string) { write(t, dir+"/boot/vmlinuz-9.8", "x") }, fs.ErrInvalid, "2 files boot/vmlinuz-*, want 1"},
		"no modules":      {func(t *testing.T, dir string) { judge(t, "rm", "-r", dir+"/lib") }, fs.ErrInvalid, "if the modules are in another package"},
		"another version": {func(t *testing.T, dir string) { judge(t, "mv", dir+"/lib/modules/9.9", dir+"/lib/modules/9.8") }, fs.ErrInvalid, "only modules of 9.8"},
		"another name": {func(t *testing.T, dir string) {
			judge(t, "mv", dir+"/lib/modules/9.9", dir+"/lib/modules/9.8")
			judge(t, "mv", dir+"/boot/vmlinuz-9.9", dir+"/boot/vmlinuz-9.8")
		}, fs.ErrInvalid, `is Linux "9.9", but its name and its modules say "9.8"`},
		"a link out of the folder": {func(t *testing.T, dir string) {
			write(t, filepath.Dir(dir)+"/vmlinuz", "x")
			judge(t, "ln", "-sf", "../../vmlinuz", dir+"/boot/vmlinuz-9.9")
		}, nil, "the folder must contain the file itself"},
		"modules behind a link": {func(t *testing.T, dir string) {
			judge(t, "mv", dir+"/lib", filepath.Dir(dir)+"/lib")
			judge(t, "ln", "-s", "../lib", dir+"/lib")
		}, fs.ErrInvalid, "no lib/modules/9.9"},
		"a FIFO": {func(t *testing.T, dir string) {
			judge(t, "rm", dir+"/boot/vmlinuz-9.9")
			judge(t, "mkfifo", dir+"/boot/vmlinuz-9.9")
		}, fs.ErrInvalid, "not a regular file"},
		"a truncated kernel": {func(t *testing.T, dir string) { judge(t, "truncate", "-s", "1040", dir+"/boot/vmlinuz-9.9") }, cas.ErrCorrupt, "cut short"},
		"a text":             {func(t *testing.T, dir string) { write(t, dir+"/boot/vmlinuz-9.9", "text") }, cas.ErrCorrupt, "kernel"},
	} {
		dir := filepath.Join(t.TempDir(), "own")
		fakeKernel(t, dir, "9.9")
		c.change(t, dir)
		_, err := b.Kernel(t.Context(), testPlatform(t, "vm"), dir)
		if err == nil || !strings.Contains(err.Error(), c.says) || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A module of another kernel would be refused by the machine.
func TestFormatAModuleOfAnotherKernelIsRefused(t *testing.T) {
	b, dir := testBuilder(t), t.TempDir()
	debian, err := b.Kernel(t.Context(), testPlatform(t, "vm"), "")
	if err != nil {
		t.Fatal(err)
	}
	fakeKernel(t, dir, "9.9")
	write(t, dir+"/lib/modules/9.9/modules.builtin", "")
	judge(t, "cp", "-r", filepath.Join(debian.dir, debian.Modules, "kernel"), dir+"/lib/modules/9.9")
	k, err := b.Kernel(t.Context(), testPlatform(t, "vm"), dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = chooseModules(k, parseModuleList(dataFile("kernel/target.modules"), "x86_64"))
	if !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "was built for kernel "+`"`+debian.Version) {
		t.Errorf("got %v", err)
	}
	judge(t, "ln", "-sf", filepath.Join(debian.dir, debian.Modules, "kernel/drivers/block/loop.ko"), dir+"/lib/modules/9.9/kernel/drivers/block/loop.ko")
	if _, err := chooseModules(k, []listedModule{{name: "loop"}}); err == nil || !strings.Contains(err.Error(), "escapes") {
		t.Errorf("a link out of the folder: %v", err)
	}
}

// The words for a kernel without an option name the option and what it is for.
func TestFormatAKernelWithoutWhatABootNeedsIsRefused(t *testing.T) {
	dir := t.TempDir()
	fakeKernel(t, dir, "9.9")
	k, err := openKernel("x86_64", dir, "own")
	if err != nil {
		t.Fatal(err)
	}
	all := "CONFIG_PACKET=m\nCONFIG_KEXEC_FILE=y\n"
	for _, n := range bootNeeds {
		if !n.module {
			all += n.option + "=y\n"
		}
	}
	for _, c := range []struct{ config, says string }{
		{all, ""},
		{strings.Replace(all, "CONFIG_RD_ZSTD=y", "# CONFIG_RD_ZSTD is not set", 1), "kernel 9.9: built without CONFIG_RD_ZSTD, which unpacks the initramfs; build it with that"},
		{strings.Replace(all, "CONFIG_MEMFD_CREATE=y", "CONFIG_MEMFD_CREATE=m", 1), "built without CONFIG_MEMFD_CREATE"},
		{strings.Replace(all, "CONFIG_PACKET=m", "", 1), "built without CONFIG_PACKET, which asks a DHCP server"},
	} {
		write(t, dir+"/boot/config-9.9", c.config)
		err := k.check(bootNeeds)
		if (err == nil) != (c.says == "") || err != nil && (!strings.Contains(err.Error(), c.says) || !errors.Is(err, fs.ErrInvalid)) {
			t.Errorf("%v; want %q", err, c.says)
		}
	}
}

func TestFormatOnlyDebianPackagesAreUnpacked(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ name, text, says string }{
		{"x.rpm", "\xed\xab\xee\xdb\x03\x00\x00\x00", "an RPM; unpack it into a folder (rpm2cpio FILE | cpio -idm)"},
		{"x.pkg.tar.zst", "\x28\xb5\x2f\xfd\x04\x00\x00\x00", "not a Debian package; unpack it into a folder"},
		{"vmlinuz", "MZ", "not a Debian package"},
		{"half.deb", "!<arch>\ndebian-binary   ", "dpkg-deb: "},
		{"", "", "file does not exist; check the path"},
	} {
		name := filepath.Join(dir, "nothing")
		if c.name != "" {
			name = filepath.Join(dir, c.name)
			write(t, name, c.text)
		}
		if _, err := emptyBuilder(t).Kernel(t.Context(), testPlatform(t, "vm"), name); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A package is replaced while it is unpacked, as by a build that still runs. The cache would have other files than
// those of the digest in its name, which may be the digest of a package that Debian has signed.
func TestAPackageThatIsReplacedIsNotTakenForTheOldOne(t *testing.T) {
	b, dir := testBuilder(t), t.TempDir()
	for _, name := range []string{"one", "two"} {
		write(t, filepath.Join(dir, name, "DEBIAN/control"), "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@localhost>\nDescription: x\n")
		write(t, filepath.Join(dir, name, "content"), name)
		judge(t, "dpkg-deb", "-Znone", "--build", filepath.Join(dir, name), filepath.Join(dir, name+".deb"))
	}
	tool, err := exec.LookPath("dpkg-deb")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "bin/dpkg-deb"), fmt.Sprintf("#!/bin/sh\ncp %[1]s/two.deb %[1]s/one.deb && exec %[2]s \"$@\"\n", dir, tool))
	if err := os.Chmod(filepath.Join(dir, "bin/dpkg-deb"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	folder, err := b.unpackFile(t.Context(), filepath.Join(dir, "one.deb"))
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(folder, "content")); string(got) != "one" {
		t.Errorf("the folder of package one has the files of %q", got)
	}
}
