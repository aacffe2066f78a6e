package imagebuild

import (
	"bytes"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An option that the kernel's build drops is found, and the last word on an option wins.
func TestFormatOptionsThatAreNotTakenAreFound(t *testing.T) {
	want := mergeOptions("# a comment\nCONFIG_A=y\nCONFIG_B=y\n", "# CONFIG_A is not set\nCONFIG_C=\"x\"\nCONFIG_D=n\n")
	if want != "# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=\"x\"\nCONFIG_D=n\n" {
		t.Errorf("merged: %q", want)
	}
	for _, c := range []struct{ config, missing string }{
		{"CONFIG_B=y\nCONFIG_C=\"x\"\n# CONFIG_D is not set\n", ""},
		{"CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"y\"\nCONFIG_D=m\n", "# CONFIG_A is not set, CONFIG_B=y, CONFIG_C=\"x\", CONFIG_D=n"},
	} {
		if got := strings.Join(missingOptions(want, c.config), ", "); got != c.missing {
			t.Errorf("%q: missing %q", c.config, got)
		}
	}
}

// The kernel that is built has what a boot needs, and every listed module of a virtual machine.
func TestFormatTheOptionsOfTheBuiltKernelAreEnough(t *testing.T) {
	for _, a := range kernelArchs {
		options := "\n" + mergeOptions(dataFile("kernel/config-common"), dataFile("kernel/config-"+a.arch))
		for _, n := range append([]kernelNeed{{option: "CONFIG_KEXEC_FILE"}, {option: "CONFIG_LOCK_DOWN_IN_EFI_SECURE_BOOT"}, {option: "CONFIG_KEXEC_SIG"}}, bootNeeds...) {
			if !strings.Contains(options, "\n"+n.option+"=y\n") {
				t.Errorf("%s: no %s", a.arch, n.option)
			}
		}
		if strings.Contains(options, "=m\n") {
			t.Errorf("%s: has modules", a.arch)
		}
		if a.arch == "x86_64" && !strings.Contains(options, "\nCONFIG_EFI_RUNTIME_MAP=y\n") {
			t.Errorf("%s: a release that it starts has no EFI", a.arch)
		}
	}
}

// The package that a build makes is one that --kernel takes, with the same bytes in any folder.
func TestFormatTheBuiltKernelIsAPackageForTheKernelOption(t *testing.T) {
	b, dir := testBuilder(t), t.TempDir()
	fakeKernel(t, dir+"/fake", "9.9-phase")
	var want []byte
	for _, name := range []string{"one", "two/folder"} {
		build := filepath.Join(dir, name)
		write(t, build+"/arch/x86/boot/bzImage", string(read(t, dir+"/fake/boot/vmlinuz-9.9-phase")))
		write(t, build+"/modules.builtin", string(read(t, dir+"/fake/lib/modules/9.9-phase/modules.builtin")))
		for file, text := range map[string]string{"include/config/kernel.release": "9.9-phase\n", ".config": "#\nCONFIG_KEXEC_FILE=y\nCONFIG_EFI_RUNTIME_MAP=y\n", "modules.builtin.modinfo": "", "modules.order": "\n"} {
			write(t, filepath.Join(build, file), text)
		}
		k := &kernelPlan{kernelArch: kernelArchs[0], platform: testPlatform(t, "vm"), source: deb{Name: kernelSource, Version: "6.1-1"}, date: time.Unix(1.7e9, 0)}
		out := filepath.Join(build, "kernel.deb")
		if err := k.pack(t.Context(), "", build, filepath.Join(build, "package"), out); err != nil {
			t.Fatal(err)
		}
		if got := read(t, out); want == nil {
			want = got
		} else if !bytes.Equal(got, want) {
			t.Error("another folder made other bytes")
		}
		kernel, err := b.Kernel(t.Context(), testPlatform(t, "vm"), out)
		if err != nil || kernel.Version != "9.9-phase" || !kernel.Time.Equal(k.date) || kernel.kexecWarning() != "" {
			t.Errorf("%+v, %v", kernel, err)
		}
	}
	if said := judge(t, "dpkg-deb", "--info", filepath.Join(dir, "one/kernel.deb")); !strings.Contains(said, "Package: linux-image-9.9-phase\n") {
		t.Error(said)
	}
}

func TestFormatABuiltKernelNeedsACertificateInPEM(t *testing.T) {
	for _, in := range []KernelBuild{{Arch: "mips"}, {Arch: "x86_64", Certs: []byte("text")}} {
		_, err := emptyBuilder(t).BuildKernel(t.Context(), in, filepath.Join(t.TempDir(), "out.deb"))
		if !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%+v: %v", in, err)
		}
	}
}
