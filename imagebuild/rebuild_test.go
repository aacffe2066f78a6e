package imagebuild

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/imagebuild/diskformat"
)

// smallTree is validTree with an initramfs of a boot medium, whose last member is a module of 1 MiB. edit changes its
// members.
func smallTree(t *testing.T, b *Builder, edit func(*archive)) *espTree {
	t.Helper()
	tree := validTree(t, b)
	noise := make([]byte, mib)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	a := newArchive()
	testMedia(t, b).Initramfs.addSettings(a, tree.date)
	a.text(inputsPath, Inputs{{"busybox-static", "1", "amd64", testSum, "pool/b.deb"}}.Text())
	a.file("init", []byte("program"), 0o755)
	a.file("lib/modules/6.1-cloud/x.ko", noise, 0o644)
	if edit != nil {
		edit(a)
	}
	var err error
	if tree.files["phase/initramfs.zst"], err = b.compressed(t.Context(), testPlatform(t, "vm"), a, tree.date); err != nil {
		t.Fatal(err)
	}
	return tree
}

// diskOfTree writes a disk of 300 MiB.
func diskOfTree(t *testing.T, b *Builder, tree *espTree) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk.img")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), b.makeDisk(t.Context(), tree, layOut(tree, 300*mib), file)); err != nil {
		t.Fatal(err)
	}
	return file
}

func smallDisk(t *testing.T, b *Builder) string { return diskOfTree(t, b, smallTree(t, b, nil)) }

// filePlace returns the offset in the image of a file of the EFI system partition, which is not fragmented, and its size.
func filePlace(t *testing.T, image, name string) (start, size int64) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	whole := blob{f, 300 * mib}
	esp := espAt(whole, firstPartition)
	files, err := allFiles(whole.at(esp))
	if err != nil || files[name] == nil {
		t.Fatal(name, err)
	}
	is := files[name]
	return esp.start + is.fat.data + int64(is.clusters[0]-2)*clusterSize, is.size
}

// flip changes one byte.
func flip(t *testing.T, image string, at int64) {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// An image with one changed byte: its description can still be read, and the comparison with what a rebuild gives,
// which is the image before, names the part.
func TestARebuildNamesThePartThatDiffers(t *testing.T) {
	b := testBuilder(t)
	good := shared(t, "small.img", smallDisk)
	want, err := b.Verify(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	inFile := func(name string, at int64) func(string) {
		return func(image string) {
			start, size := filePlace(t, image, name)
			flip(t, image, start+(at+size)%size)
		}
	}
	atByte := func(at int64) func(string) { return func(image string) { flip(t, image, at) } }
	for _, c := range []struct {
		name, part string
		change     func(image string)
	}{
		{"the loader", espName + ", efi/boot/bootx64.efi", inFile("efi/boot/bootx64.efi", 2)},
		{"the kernel", espName + ", phase/vmlinuz, section .text", inFile("phase/vmlinuz", 2<<20)},
		{"a member of the initramfs", espName + ", phase/initramfs.zst, lib/modules/6.1-cloud/x.ko", inFile("phase/initramfs.zst", -1000)},
		{"a title in the menu", espName + ", loader/entries/local.conf", inFile("loader/entries/local.conf", 8)},
		{"a key of a boot entry", espName + ", loader/entries/local.conf", inFile("loader/entries/local.conf", 0)},
		{"the command line of an entry", espName + ", loader/entries/private.conf", inFile("loader/entries/private.conf", -2)},
		{"the settings of the loader", espName + ", loader/loader.conf", inFile(menuPath, 0)},
		{"the space after a file", espName, func(image string) {
			start, size := filePlace(t, image, menuPath)
			flip(t, image, start+size)
		}},
		{"the name of a partition", "partition table", atByte(2*sector + 56)},
		{"boot code", "partition table", atByte(3)},
		{"the backup of the partition table", "backup of the partition table", atByte(300*mib - sector + 20)},
	} {
		image := copyOf(t, good)
		c.change(image)
		is := b.salvage(image)
		if is == nil || !sameSource(t, is, want) {
			t.Errorf("%s: the rebuild would build another image: %+v", c.name, is)
			continue
		}
		diff, _, err := b.difference(t.Context(), is, good)
		if err != nil || diff == nil {
			t.Errorf("%s: no difference, %v", c.name, err)
			continue
		}
		if part := strings.Join(diff.Part, ", "); part != c.part || len(diff.Rebuilt) != 64 || diff.SHA256 == diff.Rebuilt {
			t.Errorf("%s: %s, want %s", c.name, diff, c.part)
		}
		if err := (&Rebuilt{Contents: is, Difference: diff}).Err(); !errors.Is(err, cas.ErrCorrupt) || !strings.Contains(err.Error(), c.part+": sha256 ") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// sameSource reports whether two images would be rebuilt from the same input.
func sameSource(t *testing.T, is, want *Contents) bool {
	t.Helper()
	r := Rebuild{PhaseBoot: func(arch string) (string, error) { return arch, nil }}
	a, err1 := is.media(r)
	z, err2 := want.media(r)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if is.Default == "" { // the settings of the loader were changed
		a.DefaultMode = z.DefaultMode
	}
	return reflect.DeepEqual(a, z) && is.BuildTime == want.BuildTime && slices.Equal(is.allInputs(), want.allInputs())
}

// A changed member of the initramfs, compressed again, passes verify. The member is named in an initramfs, in a UKI and on
// a stick; one that was added or is missing too.
func TestARebuildNamesTheMemberOfAnInitramfs(t *testing.T) {
	b, dir := testBuilder(t), t.TempDir()
	stub, parts := ukiSource(t, b)
	good := smallTree(t, b, nil).files["phase/initramfs.zst"]
	write := func(name string, data []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	uki := func(name string, initramfs []byte) string {
		parts[3] = initramfs
		joined, err := joinUKI(stub, parts)
		if err != nil {
			t.Fatal(err)
		}
		return write(name, joined)
	}
	for _, c := range []struct {
		member string
		edit   func(*archive)
	}{
		{"init", func(a *archive) { a.file("init", []byte("Program"), 0o755) }},
		{"init", func(a *archive) { a.file("init", []byte("program"), 0o4755) }},
		{"etc/profile", func(a *archive) { a.text("etc/profile", "added") }},
		{"lib/modules/6.1-cloud/x.ko", func(a *archive) { delete(a.records, "lib/modules/6.1-cloud/x.ko") }},
	} {
		tree := smallTree(t, b, c.edit)
		for _, pair := range []struct {
			here, again string
			part        []string
		}{
			{write("here", tree.files["phase/initramfs.zst"]), write("again", good), []string{c.member}},
			{uki("here.efi", tree.files["phase/initramfs.zst"]), uki("again.efi", good), []string{"section .initrd", c.member}},
		} {
			is := b.salvage(pair.here)
			if is == nil {
				t.Fatalf("%s: not read", c.member)
			}
			if diff, _, err := b.difference(t.Context(), is, pair.again); err != nil || diff == nil || !slices.Equal(diff.Part, pair.part) {
				t.Errorf("%v, %v, want %q", diff, err, pair.part)
			}
		}
	}
	archive := write("again.zst", good)
	zeros := slices.Clone(good)
	zeros[5] ^= 0xff // in the header of the frame or of its first block
	if diff := (differ{ctx: t.Context()}).initramfs(nil, openBlobOf(t, write("broken", zeros)), openBlobOf(t, archive)); diff == nil || diff.Note == "" {
		t.Errorf("an archive that cannot be read: %v", diff)
	}
}

func openBlobOf(t *testing.T, file string) blob {
	t.Helper()
	b, done, err := openBlob(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	return b
}

// The disk in each format for virtual machines is compared as a whole, its cache partition too.
func TestARebuildReadsEveryFormat(t *testing.T) {
	b, dir := testBuilder(t), t.TempDir()
	good := shared(t, "small.img", smallDisk)
	changed := copyOf(t, good)
	start, _ := filePlace(t, changed, "phase/vmlinuz")
	flip(t, changed, start+2<<20)
	for _, format := range diskformat.Formats {
		name := "vm." + format.Name
		if format == diskformat.Parallels {
			name = "vm.pvm"
		}
		var images []string
		for i, raw := range []string{good, changed} {
			images = append(images, filepath.Join(dir, []string{"again", "here"}[i], name))
			if err := os.MkdirAll(filepath.Dir(images[i]), 0o755); err != nil {
				t.Fatal(err)
			}
			if _, err := b.ConvertDisk(t.Context(), raw, format, images[i]); err != nil {
				t.Fatal(err)
			}
		}
		diff, _, err := b.difference(t.Context(), &Contents{Image: images[1], Kind: format.Name}, images[0])
		if err != nil || diff == nil || !slices.Equal(diff.Part, []string{espName, "phase/vmlinuz", "section .text"}) {
			t.Errorf("%s: %v, %v", format.Name, diff, err)
		}
	}
}

func TestARebuildReadsACD(t *testing.T) {
	b := testBuilder(t)
	program := testProgram(t, b)
	good := filepath.Join(t.TempDir(), "boot.iso")
	if _, err := b.WriteISO(t.Context(), testMedia(t, b), good); err != nil {
		t.Fatal(err)
	}
	r, err := b.Rebuild(t.Context(), good, Rebuild{PhaseBoot: func(string) (string, error) { return program, nil }})
	if err != nil || !r.Equal || r.CacheDiffers || r.Err() != nil {
		t.Fatalf("a good image: %+v, %v", r, err)
	}
	if _, ok := r.Inputs.find(loaderPackage, "amd64"); !ok || len(r.Inputs) != 4 {
		t.Errorf("inputs: %v", r.Inputs)
	}
	image := copyOf(t, good)
	flip(t, image, 16*cdSector+820)
	is := b.salvage(image)
	if is == nil || !sameSource(t, is, r.Contents) {
		t.Fatalf("with another date: %+v", is)
	}
	if diff, _, err := b.difference(t.Context(), is, good); err != nil || diff == nil || diff.Part[0] != "descriptors of the CD and partition table" {
		t.Errorf("with another date: %+v, %v", diff, err)
	}
}

// The cache partition is compared, but machines write to it.
func TestAUsedStickIsEqualToItsRebuild(t *testing.T) {
	b := testBuilder(t)
	good := shared(t, "small.img", smallDisk)
	image := copyOf(t, good)
	flip(t, image, firstPartition+minESP+20*mib)
	for file, used := range map[string]bool{good: false, image: true} {
		diff, cacheDiffers, err := b.difference(t.Context(), &Contents{Image: file, Kind: KindDisk, Size: 300 * mib}, good)
		if err != nil || diff != nil || cacheDiffers != used {
			t.Errorf("%v: %v, %v, %v", used, diff, cacheDiffers, err)
		}
	}
}

// Kernel and authorities that a person gave are not in the image: a rebuild without them names the option.
func TestARebuildNamesTheOptionThatIsMissing(t *testing.T) {
	b := testBuilder(t)
	program := testProgram(t, b)
	_, certificate := testAuthority(t)
	own := certificate("own", true)
	for _, flavour := range []string{"vm", "generic"} {
		kernel, image := t.TempDir(), filepath.Join(t.TempDir(), "image")
		p := testPlatform(t, flavour)
		fakeKernel(t, kernel, "9.9")
		builtin := ""
		for _, m := range p.modules(partBoot) {
			builtin += "kernel/x/" + m.name + ".ko\n"
		}
		write(t, filepath.Join(kernel, "lib/modules/9.9", builtinList), builtin)
		in := Initramfs{Platform: p, Role: RoleBoot, Root: testRoot(t), Channel: "stable", PhaseBoot: program, KernelFrom: kernel, Authorities: own}
		if _, err := b.WriteInitramfs(t.Context(), in, image); err != nil {
			t.Fatal(err)
		}
		differs := "etc/ssl/certs/ca-certificates.crt: sha256 "
		for name, c := range map[string]struct {
			kernel string
			ca     []byte
			says   []string
		}{
			"both":              {kernel, own, nil},
			"no kernel":         {"", own, []string{"image " + image + ": made with --kernel, because its list of packages has no kernel; give the same --kernel again"}},
			"no authority":      {kernel, nil, []string{differs, "; give again each --ca that it was made with, and no other, or do not trust it"}},
			"another authority": {kernel, certificate("other", true), []string{differs, "; give again each --ca"}},
		} {
			r, err := b.Rebuild(t.Context(), image, Rebuild{PhaseBoot: func(string) (string, error) { return program, nil }, KernelFrom: c.kernel, Authorities: c.ca})
			if err == nil {
				err = r.Err()
			}
			if (err == nil) != (c.says == nil) {
				t.Errorf("%s, %s: %v", flavour, name, err)
			}
			for _, words := range c.says {
				if err != nil && !strings.Contains(err.Error(), words) {
					t.Errorf("%s, %s: %v; want %q", flavour, name, err, words)
				}
			}
		}
	}
	debian := &Contents{Image: "x.efi", System: System{Inputs: Inputs{{"linux-image-6.1.0-49-cloud-amd64", "6.1", "amd64", testSum, "pool/l.deb"}}}}
	err := Rebuild{KernelFrom: "own"}.checkKernel(debian)
	if !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "image x.efi: made without --kernel, because it lists its kernel, linux-image-6.1.0-49-cloud-amd64; remove --kernel") {
		t.Errorf("a kernel in place of Debian's: %v", err)
	}
}
