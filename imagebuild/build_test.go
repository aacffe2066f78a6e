package imagebuild

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

// testRoot returns a root.json with two fixed keys.
func testRoot(t *testing.T) []byte {
	t.Helper()
	key := func(seed byte) ed25519.PrivateKey {
		return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	}
	public := func(seed byte) []ed25519.PublicKey {
		return []ed25519.PublicKey{key(seed).Public().(ed25519.PublicKey)}
	}
	root, err := manifest.NewRoot(manifest.RootSpec{Root: public(1), Threshold: 1, Online: public(2), Expires: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := signature.LoadSigner(key(1), crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := manifest.Sign(root, signer); err != nil {
		t.Fatal(err)
	}
	data, err := manifest.Bytes(manifest.KindRoot, root)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func testBuilder(t *testing.T) *Builder {
	t.Helper()
	b, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func testPlatform(t *testing.T, flavour string) Platform {
	t.Helper()
	p, err := ParsePlatform("x86_64", flavour)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func armPlatform(t *testing.T, flavour string) Platform {
	t.Helper()
	p, err := ParsePlatform("arm64", flavour)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// testProgram returns a static program for /init: Debian's busybox.
func testProgram(t *testing.T, b *Builder) string {
	t.Helper()
	path, err := b.Busybox(t.Context(), "x86_64")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func testMedia(t *testing.T, b *Builder) Media {
	return Media{
		Initramfs:   Initramfs{Platform: testPlatform(t, "vm"), Role: RoleBoot, Root: testRoot(t), Channel: "stable", PhaseBoot: testProgram(t, b)},
		DefaultMode: "local",
		Cmdline:     "phase.mirror=http://192.0.2.1",
	}
}

func TestUSBImageIsValidAndReproducible(t *testing.T) {
	b, dir := testBuilder(t), t.TempDir()
	media := testMedia(t, b)
	first, second := filepath.Join(dir, "1.img"), filepath.Join(dir, "2.img")
	for _, out := range []string{first, second} {
		if _, err := b.WriteUSB(t.Context(), media, 300*mib, out); err != nil {
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
	if want := []string{"sgdisk", "fsck.fat", "e2fsck"}; !slices.Equal(c.Checks, want) {
		t.Errorf("checked by %v, want %v", c.Checks, want)
	}
	if c.Tor {
		t.Error("it contains Tor, which nobody asked for")
	}
	if c.Default != "local" || c.Channel != "stable" || c.Role != RoleBoot || c.Root.Roles["root"].Threshold != 1 {
		t.Errorf("contents: %+v", c)
	}
	if len(c.Entries) != len(modes.Set{}.Available(false)) {
		t.Errorf("%d entries for %d modes", len(c.Entries), len(modes.Set{}.Available(false)))
	}
	for _, e := range c.Entries {
		if want := "console=tty0 console=ttyS0,115200 quiet panic=30 phase.mode=" + e.Mode + " phase.mirror=http://192.0.2.1"; e.Cmdline != want {
			t.Errorf("mode %s: command line %q, want %q", e.Mode, e.Cmdline, want)
		}
	}
	damage(t, b, first)
}

// damage overwrites one part of the image after the other. Verify must refuse each.
func damage(t *testing.T, b *Builder, image string) {
	f, size, err := openImage(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	parts, err := readTable(f, size)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		at   int64
		size int
	}{
		{"partition table", sector, sector},
		{"FAT", parts.esp.start + 40*sector, 4096},
		{"ext4 superblock", parts.cache.start + 1024, 512},
	} {
		t.Run("verify refuses a damaged "+c.name, func(t *testing.T) {
			f, err := os.OpenFile(image, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			old, bad := make([]byte, c.size), bytes.Repeat([]byte{0x5a}, c.size)
			if _, err := f.ReadAt(old, c.at); err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt(bad, c.at); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Verify(t.Context(), image); !errors.Is(err, cas.ErrCorrupt) {
				t.Errorf("got %v, want ErrCorrupt", err)
			}
			if _, err := f.WriteAt(old, c.at); err != nil {
				t.Fatal(err)
			}
		})
	}
	if _, err := b.Verify(t.Context(), image); err != nil {
		t.Errorf("restored: %v", err)
	}
}

func TestInitramfsIsReadByZstdAndCpio(t *testing.T) {
	b := testBuilder(t)
	for _, c := range []struct {
		role  string
		want  []string
		start string
	}{
		{RoleBoot, []string{"init", "bin/sh", "bin/busybox", "etc/phase/root.json", "etc/phase/channel", "etc/ssl/certs/ca-certificates.crt", "dev/console"}, "virtio_pci\nvirtio_net\n"},
		{RoleTarget, []string{"init", "bin/sh", "etc/phase/role", "newroot"}, "loop\nsquashfs\noverlay\nvirtio_pci\nvirtio_net\nvirtio_blk\nvirtio_rng\n"},
	} {
		t.Run(c.role, func(t *testing.T) {
			in := testMedia(t, b).Initramfs
			in.Role = c.role
			out := filepath.Join(t.TempDir(), "initramfs")
			info, err := b.WriteInitramfs(t.Context(), in, out)
			if err != nil {
				t.Fatal(err)
			}
			names := strings.Split(output(t, "zstd -dc "+out+" | cpio -t --quiet"), "\n")
			for _, want := range c.want {
				if !slices.Contains(names, want) {
					t.Errorf("%s is missing", want)
				}
			}
			if !slices.IsSorted(names[:len(names)-1]) {
				t.Error("names are not sorted")
			}
			if got := output(t, "zstd -dc "+out+" | cpio -i --quiet --to-stdout etc/phase/modules"); got != c.start {
				t.Errorf("modules at start: %q, want %q", got, c.start)
			}
			dep := output(t, "zstd -dc "+out+" | cpio -i --quiet --to-stdout 'lib/modules/*/modules.dep'")
			for line := range strings.Lines(dep) {
				for _, file := range strings.Fields(strings.Replace(line, ":", " ", 1)) {
					if !slices.Contains(names, "lib/modules/"+info.Kernel+"/"+file) {
						t.Errorf("modules.dep names %s, which is not in the archive", file)
					}
				}
			}
		})
	}
}

func TestBusyboxHasEveryLinkedApplet(t *testing.T) {
	b := testBuilder(t)
	out, err := exec.Command(testProgram(t, b), "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	applets := strings.Fields(string(out))
	for _, name := range dataWords("initramfs/applets") {
		if !slices.Contains(applets, name) {
			t.Errorf("busybox has no applet %s", name)
		}
	}
}

func TestRootfsHasPlasmdAndNoTraceOfTheBuildHost(t *testing.T) {
	b := testBuilder(t)
	r := Rootfs{Platform: testPlatform(t, "vm"), Plasmd: testProgram(t, b)}
	if testing.Short() { // only the plan: the first build of the base system takes a minute
		base, err := b.planBase(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(base.plan, func(p string) bool { return strings.HasPrefix(p, "systemd-sysv=") }) || base.date.IsZero() {
			t.Errorf("plan: %+v", base)
		}
		return
	}
	out := filepath.Join(t.TempDir(), "rootfs")
	if _, err := b.WriteRootfs(t.Context(), r, out); err != nil {
		t.Fatal(err)
	}
	list := output(t, "unsquashfs -lls "+out)
	if !strings.HasPrefix(list, "drwxr-xr-x root/root ") {
		t.Errorf("top folder: %.60s", list)
	}
	for _, want := range []string{"/usr/bin/plasmd\n", "/multi-user.target.wants/phase-bless.service ->", "/multi-user.target.wants/phase-job.service ->", "/multi-user.target.wants/phase-seed.service ->", "/multi-user.target.wants/phase-report.service ->", "/multi-user.target.wants/plasmd.service ->", "/sockets.target.wants/plasmd.socket ->", "/etc/machine-id\n", "apt-daily.timer -> /dev/null"} {
		if !strings.Contains(list, want) {
			t.Errorf("%q is missing", want)
		}
	}
	for _, trace := range []string{"/etc/apt/sources.list", "99mmdebstrap", "/var/lib/apt/lists/", "/var/log/dpkg.log", "/etc/resolv.conf"} {
		if strings.Contains(list, trace+"\n") || strings.Contains(list, trace+"/") {
			t.Errorf("%q was not removed", trace)
		}
	}
}

func output(t *testing.T, pipeline string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", pipeline).Output()
	if err != nil {
		t.Fatalf("%s: %v; run: apt-get install zstd cpio squashfs-tools", pipeline, err)
	}
	return string(out)
}

func TestProgramMustBeStatic(t *testing.T) {
	b := testBuilder(t)
	if _, _, err := readProgram(testProgram(t, b), testPlatform(t, "vm")); err != nil {
		t.Errorf("static: %v", err)
	}
	if f, err := elf.Open("/bin/sh"); err != nil || f.Section(".interp") == nil {
		t.Fatalf("/bin/sh is not a dynamic program: %v", err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{"/bin/sh": fs.ErrInvalid, empty: cas.ErrCorrupt, t.TempDir(): fs.ErrInvalid, empty + "-not": os.ErrNotExist} {
		if _, _, err := readProgram(path, testPlatform(t, "vm")); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", path, err, want)
		}
	}
}

func TestInterruptedBuildLeavesNoFile(t *testing.T) {
	b, dir := testBuilder(t), t.TempDir()
	media := testMedia(t, b)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := b.WriteUSB(ctx, media, 300*mib, filepath.Join(dir, "x.img")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

func TestDateIsTheEpochOrTheNewestInput(t *testing.T) {
	older, newer := time.Unix(1000, 0), time.Unix(2000, 5)
	if got := (&Builder{}).date(older, newer, time.Time{}); got.Unix() != 2000 || got.Nanosecond() != 0 {
		t.Errorf("newest input: %v", got)
	}
	if got := (&Builder{epoch: older}).date(newer); !got.Equal(older) {
		t.Errorf("epoch: %v", got)
	}
	if got := fmt.Sprint((&espTree{date: time.Unix(0, 0)}).fatDate().Year()); got != "1980" {
		t.Errorf("FAT has no year before 1980: %s", got)
	}
}
