package imagebuild

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gpt"
)

func testGRUB(t *testing.T, b *Builder) []byte {
	t.Helper()
	data, err := b.grub(t.Context(), testPlatform(t, "vm"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestFormatGRUBMenuIsReadBack(t *testing.T) {
	menu := grubMenu{architectures[0], "3", "lab", []BootEntry{
		{Mode: "local", Arch: "x86_64", Boots: "local", Title: "It's local", Cmdline: "quiet phase.mode=local x=a&b;c|d<e>{f}$g#h"},
		{Mode: "lab", Arch: "x86_64", Boots: "internet", Title: "Lab (${x} $(y) #z)", Cmdline: "quiet panic=30"},
	}}
	got, err := readGRUBMenu(architectures[0], menu.text())
	if err != nil || got.mode != menu.mode || got.timeout != menu.timeout || !slices.Equal(got.entries, menu.entries) {
		t.Errorf("got %+v, %v\n%s", got, err, menu.text())
	}
}

func TestFormatGRUBMenuWithAnythingElseIsRefused(t *testing.T) {
	good := grubMenu{architectures[0], "3", "local", []BootEntry{{Mode: "local", Arch: "x86_64", Title: "Local", Cmdline: "quiet phase.mode=local"}}}.text()
	if _, err := readGRUBMenu(architectures[0], good); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"empty":              "",
		"a command before":   "insmod x\n" + good,
		"a command after":    good + "configfile /x\n",
		"a comment":          "# x\n" + good,
		"other kernel":       strings.Replace(good, "/phase/vmlinuz", "/phase/other", 1),
		"second initramfs":   strings.Replace(good, "/phase/initramfs.zst", "/phase/initramfs.zst /x", 1),
		"other device":       strings.Replace(good, "initrd /", "initrd (hd1)/", 1),
		"initrd= word":       strings.Replace(good, "'quiet'", "'quiet' 'initrd=/x'", 1),
		"a second command":   strings.Replace(good, "'quiet'", "'quiet';configfile /x", 1),
		"a variable":         strings.Replace(good, "'quiet'", "'quiet' $x", 1),
		"an open quote":      strings.Replace(good, "'quiet'", "'quiet", 1),
		"a line in a title":  strings.Replace(good, "'Local'", "'Local\n'", 1),
		"a command in title": strings.Replace(good, "'Local'", "'Local' --unrestricted $(x)''", 1),
		"escape in a title":  strings.Replace(good, "'Local'", "'Local\x1b[2J'", 1),
		"repeated entry":     good + strings.SplitAfterN(good, "\n", 3)[2],
		"unknown default":    strings.Replace(good, "default=phase-local", "default=phase-other", 1),
		"default by number":  strings.Replace(good, "default=phase-local", "default=0", 1),
		"half an entry":      good[:len(good)-3],
		"no last line":       strings.TrimSuffix(good, "\n"),
		"unknown argument":   strings.Replace(good, "phase.mode=local", "phase.mood=local", 1),
	} {
		if g, err := readGRUBMenu(architectures[0], bad); !errors.Is(err, cas.ErrCorrupt) || strings.ContainsRune(err.Error(), 0x1b) {
			t.Errorf("%s: %+v, %v", name, g, err)
		}
	}
}

func TestFormatLoadersAreChecked(t *testing.T) {
	for loader, want := range map[string]error{"": nil, "systemd-boot": nil, "grub": nil, "both": nil, "lilo": fs.ErrInvalid} {
		if err := (Media{Bootloader: loader}).checkLoader(); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", loader, err, want)
		}
	}
	for loader, want := range map[string]error{"systemd-boot": nil, "grub": fs.ErrInvalid} {
		if err := (Media{Bootloader: loader, Cmdline: `dyndbg="x y"`}).checkLoader(); !errors.Is(err, want) {
			t.Errorf("%s with quotes: %v, want %v", loader, err, want)
		}
	}
}

func TestGRUBIsReproducibleAndReadsItsMenuInOnePlace(t *testing.T) {
	b := testBuilder(t)
	good := testGRUB(t, b)
	if !bytes.Equal(good, testGRUB(t, b)) {
		t.Error("two builds differ")
	}
	if err := readGRUB(architectures[0], bytes.NewReader(good), int64(len(good))); err != nil {
		t.Fatal(err)
	}
	program, err := pe.NewFile(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	mods := int(program.Section("mods").Offset)
	change := func(at int, to []byte) []byte {
		bad := bytes.Clone(good)
		copy(bad[at:], to)
		return bad
	}
	prefix := bytes.LastIndex(good, []byte("/"+grubFolder+"\x00"))
	module := bytes.Index(good, []byte("part_gpt\x00"))
	if prefix < 0 || module < 0 {
		t.Fatal(prefix, module)
	}
	for name, bad := range map[string][]byte{
		"other prefix":          change(prefix, []byte("/evil")),
		"configuration inside":  change(prefix-grubObjectSize, []byte{2}),
		"memory disk inside":    change(mods+grubInfoSize, []byte{1}),
		"object of length 0":    change(mods+grubInfoSize+4, []byte{0, 0, 0, 0}),
		"objects past the end":  change(mods+16, []byte{0xff, 0xff, 0xff}),
		"objects begin later":   change(mods+8, []byte{64}),
		"no modules":            change(mods, []byte{0}),
		"another module's name": bytes.ReplaceAll(good, []byte("part_gpt\x00"), []byte("part_xxx\x00")),
		"modules shown":         showOtherModules(good, program, prefix),
		"another program":       []byte("MZ"),
		"large":                 append(bytes.Clone(good), make([]byte, maxGRUB)...),
	} {
		if err := readGRUB(architectures[0], bytes.NewReader(bad), int64(len(bad))); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// showOtherModules returns a GRUB with another prefix. A section before its modules has the name "/4", which a
// table of symbols makes "mods" for some readers, and the unchanged modules.
func showOtherModules(good []byte, program *pe.File, prefix int) []byte {
	bad, mods := bytes.Clone(good), program.Section("mods")
	copy(bad[prefix:], "/evil")
	header := int(binary.LittleEndian.Uint32(good[60:])) + 4
	table := header + 20 + int(program.SizeOfOptionalHeader)
	copy(bad[table:], "/4\x00\x00\x00\x00\x00\x00")
	binary.LittleEndian.PutUint32(bad[table+16:], mods.Size)
	binary.LittleEndian.PutUint32(bad[table+20:], uint32(len(bad)))
	bad = append(bad, good[mods.Offset:mods.Offset+mods.Size]...)
	binary.LittleEndian.PutUint32(bad[header+8:], uint32(len(bad)))
	return append(bad, "\x09\x00\x00\x00mods\x00"...)
}

func TestAnImageWithBothLoadersIsValidAndReproducible(t *testing.T) {
	b, dir := testBuilder(t), t.TempDir()
	media := testMedia(t, b)
	media.Bootloader = LoaderBoth
	first := filepath.Join(dir, "1.img")
	if _, err := b.WriteUSB(t.Context(), media, 600*mib, first); err != nil {
		t.Fatal(err)
	}
	c, err := b.Verify(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	if c.Bootloader != LoaderBoth || c.GRUB == "" || c.GRUB == c.Loader || c.Default != "local" || len(c.Entries) != len(media.Modes.Available(false)) {
		t.Errorf("%+v", c)
	}
	if err := b.CompareRebuild(t.Context(), c, Rebuild{PhaseBoot: func(string) (string, error) { return media.PhaseBoot, nil }}); err != nil { // every byte outside the cache partition
		t.Error(err)
	}
	if _, err := b.WriteESP(t.Context(), media, filepath.Join(dir, "esp")); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("both on one partition: %v", err)
	}
	growsBesideAFallback(t, b, first)
	f, err := os.OpenFile(first, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	parts, err := readTable(f, 600*mib)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"menu": "set default=phase-", "kernel": c.Kernel[:20], "GRUB": "part_gpt\x00"} {
		window := make([]byte, 64*mib)
		if _, err := f.ReadAt(window, parts.fallback.start); err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(window, []byte(text))
		if at < 0 {
			t.Fatalf("%s: not found", name)
		}
		where := parts.fallback.start + int64(at)
		if _, err := f.WriteAt([]byte("X"), where); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Verify(t.Context(), first); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("another %s on the second partition: %v", name, err)
		}
		if _, err := f.WriteAt([]byte(text[:1]), where); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, parts.esp.start, parts.esp.size); err != nil {
		t.Fatal(err)
	}
	if err := copySparse(first, parts.esp.start, first, parts.fallback.start, parts.fallback.size); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Verify(t.Context(), first); !errors.Is(err, cas.ErrCorrupt) {
		t.Errorf("GRUB on both partitions: %v", err)
	}
}

// A partition that boots both architectures has a GRUB and a menu for each.
func TestGRUBForBothArchitectures(t *testing.T) {
	b, dir := testBuilder(t), t.TempDir()
	media := testMedia(t, b)
	media.Others, media.Bootloader = []Initramfs{armMedia(t, b).Initramfs}, LoaderGRUB
	esp := filepath.Join(dir, "esp")
	if _, err := b.WriteESP(t.Context(), media, esp); err != nil {
		t.Fatal(err)
	}
	c, err := b.Verify(t.Context(), esp)
	if err != nil {
		t.Fatal(err)
	}
	half := len(c.Entries) / 2
	if c.Bootloader != LoaderGRUB || c.Arch != "x86_64" || len(c.Others) != 1 || c.Others[0].Arch != "arm64" || c.Default != "local" ||
		half != len(media.Modes.Available(false)) || c.Entries[0].Arch != "x86_64" || c.Entries[half].Arch != "arm64" {
		t.Errorf("%+v", c)
	}
	program := map[string]string{"x86_64": media.PhaseBoot, "arm64": media.Others[0].PhaseBoot}
	if err := b.CompareRebuild(t.Context(), c, Rebuild{PhaseBoot: func(arch string) (string, error) { return program[arch], nil }}); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]string{
		"the menu of the other architecture": "mcopy -o -i %[1]s ::/grub/grub.cfg %[2]s && mcopy -o -i %[1]s %[2]s ::/grub/arm64/grub.cfg",
		"the GRUB of the other architecture": "mcopy -o -i %[1]s ::/EFI/BOOT/BOOTX64.EFI %[2]s && mcopy -o -i %[1]s %[2]s ::/EFI/BOOT/BOOTAA64.EFI",
		"no menu for one":                    "mdel -i %[1]s ::/grub/arm64/grub.cfg",
		"a menu without a loader":            "mdeltree -i %[1]s ::/phase/arm64 ::/EFI/BOOT/BOOTAA64.EFI",
		"another default for one":            "mcopy -i %[1]s ::/grub/arm64/grub.cfg - | sed s/default=phase-local/default=phase-edge/ >%[2]s && mcopy -o -i %[1]s %[2]s ::/grub/arm64/grub.cfg",
	} {
		hostile := copyOf(t, esp)
		change = strings.NewReplacer("%[1]s", hostile, "%[2]s", filepath.Join(t.TempDir(), "x")).Replace(change)
		if out, err := exec.Command("sh", "-c", change).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		if _, err := b.Verify(t.Context(), hostile); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// growsBesideAFallback checks that a grown stick with a second EFI system partition is still the image that it was.
func growsBesideAFallback(t *testing.T, b *Builder, image string) {
	t.Helper()
	const device = 700 * mib
	stick := filepath.Join(t.TempDir(), "stick")
	output(t, "cp --sparse=always "+image+" "+stick)
	f, err := os.OpenFile(stick, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(device); err != nil {
		t.Fatal(err)
	}
	if _, err := gpt.Grow(f, device, 3); err != nil {
		t.Fatal(err)
	}
	c, err := b.Verify(t.Context(), stick)
	if err != nil {
		t.Fatal(err)
	}
	if c.Built != 600*mib || !c.CacheGrown {
		t.Errorf("built with %d bytes, grown: %v", c.Built, c.CacheGrown)
	}
	if diff, _, err := b.difference(t.Context(), c, image); diff != nil || err != nil {
		t.Error(diff, err)
	}
}
