package imagebuild

import (
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
)

func TestFormatFilesAreExcludedAsDpkgDoes(t *testing.T) {
	options := dataWords("rootfs/excluded")
	for name, want := range map[string]bool{
		"/usr/share/doc/bash/changelog.gz": true,
		"/usr/share/doc/bash/copyright":    false,
		"/usr/share/doc":                   false,
		"/usr/share/doc/bash":              true,
		"/usr/share/man/man1/ls.1.gz":      true,
		"/usr/bin/ls":                      false,
	} {
		if got := excluded(options, name); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestFormatPathsAreMergedIntoUsr(t *testing.T) {
	n := &native{links: map[string]string{"bin": "usr/bin", "lib": "usr/lib"}}
	for name, want := range map[string]string{
		"./bin/sh": "usr/bin/sh", "/lib/systemd": "usr/lib/systemd", "./bin": "usr/bin", "./": ".", "/.": ".", "": ".",
		"usr/bin/env": "usr/bin/env", "./etc/../etc/passwd": "etc/passwd", "../../etc": "etc", "lib64/x": "lib64/x",
	} {
		if got := n.merge(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestFormatTheArchitectureOfAProgramIsRead(t *testing.T) {
	head := func(machine elf.Machine, order elf.Data) []byte {
		h := make([]byte, elfHead)
		copy(h, elf.ELFMAG)
		h[elf.EI_DATA], h[18] = byte(order), byte(machine)
		return h
	}
	for name, c := range map[string]struct {
		head []byte
		want string
	}{
		"x86_64":     {head(elf.EM_X86_64, elf.ELFDATA2LSB), "x86_64"},
		"arm64":      {head(elf.EM_AARCH64, elf.ELFDATA2LSB), "arm64"},
		"big-endian": {head(elf.EM_AARCH64, elf.ELFDATA2MSB), ""},
		"i386":       {head(elf.EM_386, elf.ELFDATA2LSB), ""},
		"cut short":  {head(elf.EM_AARCH64, elf.ELFDATA2LSB)[:19], ""},
		"a script":   {[]byte("#!/bin/sh\nexec true; exit"), ""},
		"nothing":    {nil, ""},
	} {
		if got := programArch(c.head); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestFormatTheVersionOfAnArm64KernelIsFoundAnywhere(t *testing.T) {
	const want = "6.1.0-57-cloud-arm64 (x) #1 SMP"
	text := "Linux version %s\x00Linux version " + want + "\n\x00"
	for _, at := range []int{0, 1000, 1<<20 - 20, 1<<20 - 1, 1 << 20, 3<<20 + 1} {
		image := append(make([]byte, at), text...)
		if got, err := banner(bytes.NewReader(image)); got != want || err != nil {
			t.Errorf("at %d: %q, %v", at, got, err)
		}
	}
	if _, err := banner(endless{}); !errors.Is(err, cas.ErrCorrupt) { // compressed, zeros need little space
		t.Errorf("endless zeros: %v", err)
	}
	if _, err := banner(bytes.NewReader(make([]byte, 3<<20))); !errors.Is(err, cas.ErrCorrupt) {
		t.Errorf("no version: %v", err)
	}
}

func TestFormatAKernelThatCannotStartAReleaseIsAWarning(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "boot"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		arch, config string
		warns        bool
	}{
		{"x86_64", "CONFIG_X=y\nCONFIG_KEXEC=y\n# CONFIG_KEXEC_FILE is not set\n", true},
		{"x86_64", "CONFIG_KEXEC=y\nCONFIG_KEXEC_FILE=y\nCONFIG_EFI_RUNTIME_MAP=y\n", false},
		{"x86_64", "CONFIG_KEXEC=y\nCONFIG_KEXEC_FILE=y\n# CONFIG_EFI_RUNTIME_MAP is not set\n", true},
		{"arm64", "CONFIG_X=y\nCONFIG_KEXEC=y\n# CONFIG_KEXEC_FILE is not set\n", false}, // Debian 12's
		{"arm64", "CONFIG_X=y\n# CONFIG_KEXEC is not set\nCONFIG_KEXEC_FILE=y\n", false},
		{"arm64", "CONFIG_X=y\n# CONFIG_KEXEC is not set\n# CONFIG_KEXEC_FILE is not set\n", true},
	} {
		k := &Kernel{Arch: row.arch, Version: "6.1", dir: dir}
		if err := os.WriteFile(filepath.Join(dir, "boot", "config-6.1"), []byte(row.config), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := k.kexecWarning(); (got != "") != row.warns {
			t.Errorf("%s, %q: %q", row.arch, row.config, got)
		}
		k.Version = "6.2"
		if got := k.kexecWarning(); got != "" {
			t.Errorf("without a configuration: %q", got)
		}
	}
}

// armProgram returns a static program for arm64: Debian's busybox.
func armProgram(t *testing.T, b *Builder) string {
	t.Helper()
	path, err := b.Busybox(t.Context(), "arm64")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// One partition for both architectures is made twice, read by mtools, and verified. What one
// architecture boots must not differ from the other in its settings.
func TestAPartitionForBothArchitectures(t *testing.T) {
	b, dir := testBuilder(t), t.TempDir()
	media := testMedia(t, b)
	arm := media.Initramfs
	arm.Platform, arm.PhaseBoot = armPlatform(t, "vm"), armProgram(t, b)
	media.Others = []Initramfs{arm}
	first, second := filepath.Join(dir, "1"), filepath.Join(dir, "2")
	for _, out := range []string{first, second} {
		if _, err := b.WriteESP(t.Context(), media, out); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("cmp", first, second).CombinedOutput(); err != nil {
		t.Errorf("two builds of the same inputs differ: %s", out)
	}
	c, err := b.Verify(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	if c.Arch != "x86_64" || len(c.Others) != 1 || c.Others[0].Arch != "arm64" || !strings.Contains(c.Others[0].Kernel, "-cloud-arm64 ") {
		t.Errorf("contents: %+v", c)
	}
	if len(c.Entries)%2 != 0 || c.Entries[0].Arch != "x86_64" || c.Entries[len(c.Entries)-1].Arch != "arm64" || !strings.Contains(c.Entries[len(c.Entries)-1].Cmdline, "console=ttyAMA0,") {
		t.Errorf("entries: %+v", c.Entries)
	}
	names := output(t, "mdir -/ -b -i "+first)
	for _, want := range []string{"::/EFI/BOOT/BOOTX64.EFI", "::/EFI/BOOT/BOOTAA64.EFI", "::/phase/vmlinuz", "::/phase/arm64/vmlinuz", "::/loader/entries/local_arm64.conf"} {
		if !strings.Contains(names, want+"\n") {
			t.Errorf("no %s in %s", want, names)
		}
	}
	program := map[string]string{"x86_64": media.PhaseBoot, "arm64": arm.PhaseBoot}
	if err := b.CompareRebuild(t.Context(), c, Rebuild{PhaseBoot: func(arch string) (string, error) { return program[arch], nil }}); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]string{
		"the initramfs of the other architecture": "mcopy -o -i %[1]s ::/phase/initramfs.zst %[2]s && mcopy -o -i %[1]s %[2]s ::/phase/arm64/initramfs.zst",
		"the kernel of the other architecture":    "mcopy -o -i %[1]s ::/phase/arm64/vmlinuz %[2]s && mcopy -o -i %[1]s %[2]s ::/phase/vmlinuz",
		"no loader for one":                       "mdel -i %[1]s ::/EFI/BOOT/BOOTAA64.EFI",
		"no entry for one":                        "mdel -i %[1]s ::/loader/entries/local_arm64.conf",
	} {
		hostile := copyOf(t, first)
		change = strings.NewReplacer("%[1]s", hostile, "%[2]s", filepath.Join(t.TempDir(), "x")).Replace(change)
		if out, err := exec.Command("sh", "-c", change).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		if _, err := b.Verify(t.Context(), hostile); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The root filesystem of another architecture has the packages of that architecture, and what
// maintainer scripts wrote on this one.
func TestRootfsOfAnotherArchitecture(t *testing.T) {
	b := testBuilder(t)
	r := Rootfs{Platform: armPlatform(t, "vm"), Plasmd: armProgram(t, b)}
	if r.Platform.debian == hostArch {
		r = Rootfs{Platform: testPlatform(t, "vm"), Plasmd: testProgram(t, b)}
	}
	base, err := b.planBase(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if base.native == nil || base.native.arch != hostArch || base.arch == hostArch {
		t.Fatalf("plan: %+v", base)
	}
	if testing.Short() { // only the plan: building takes a minute
		return
	}
	tar, err := b.base(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if out, err := exec.Command("tar", "-C", dir, "--exclude=./dev", "--no-same-owner", "-xf", tar).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	audit := exec.Command("dpkg", "--root="+dir, "--audit")
	if out, err := audit.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("dpkg --audit: %v: %s", err, out)
	}
	for _, arch := range strings.Fields(output(t, "dpkg-query --admindir="+dir+"/var/lib/dpkg -W -f '${Architecture}\n' | sort -u")) {
		if arch != base.arch && arch != "all" {
			t.Errorf("a package of %s", arch)
		}
	}
	for name, text := range map[string]string{"etc/passwd": "root:x:0:0:", "etc/group": "systemd-journal:", "etc/pam.d/common-auth": "pam_unix.so", "var/lib/dpkg/arch": base.arch} {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !strings.Contains(string(data), text) {
			t.Errorf("%s: no %q, %v", name, text, err)
		}
	}
	if link, err := os.Readlink(filepath.Join(dir, "etc/alternatives/awk")); err != nil || link != "/usr/bin/mawk" {
		t.Errorf("awk: %s, %v", link, err)
	}
	program, err := os.ReadFile(filepath.Join(dir, "usr/lib/systemd/systemd"))
	if err != nil {
		program, err = os.ReadFile(filepath.Join(dir, "lib/systemd/systemd"))
	}
	if err != nil || programArch(program) != r.Platform.Arch {
		t.Errorf("systemd: %q, %v", programArch(program), err)
	}
}

// endless is a reader of zeros without an end.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
