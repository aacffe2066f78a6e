package imagebuild

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

// member returns one member of a cpio archive, valid or not.
func member(name string, mode, links int, body string) string {
	pad := func(s string) string { return s + strings.Repeat("\x00", -len(s)&3) }
	head := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", 7, mode, 0, 0, links, 0, len(body), 0, 0, 0, 0, len(name)+1, 0)
	return pad(head+name+"\x00") + pad(body)
}

func dirMember(name string) string        { return member(name, modeDir|0o755, 0, "") }
func fileMember(name, body string) string { return member(name, modeFile|0o644, 0, body) }
func linkMember(name, to string) string   { return member(name, modeLink|0o777, 0, to) }

var trailer = member(cpioTrailer, 0, 0, "")

// validArchive returns an archive with everything that Verify reads, without a trailer.
func validArchive(t *testing.T) string {
	return dirMember("etc") + dirMember("etc/phase") + fileMember("etc/phase/build-time", "1700000000\n") + fileMember("etc/phase/channel", "stable\n") +
		fileMember("etc/phase/role", "boot\n") + fileMember("etc/phase/root.json", string(testRoot(t))) + fileMember("init", "program") +
		dirMember("lib") + dirMember("lib/modules") + dirMember("lib/modules/6.1-cloud")
}

// archiveWith is validArchive with more members before etc/phase/role, and a trailer.
func archiveWith(t *testing.T, members string) string {
	role := fileMember("etc/phase/role", "boot\n")
	return strings.Replace(validArchive(t), role, members+role, 1) + trailer
}

// mustShipped returns the file of a shipped mode.
func mustShipped(name string) string {
	data, found := modes.Shipped(name)
	if !found {
		panic("no mode " + name)
	}
	return string(data)
}

func zstdOf(t *testing.T, text string) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(zstdWindow))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func gzipOf(t *testing.T, text string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// hostileArchives returns initramfs files that phase-image does not write. Some have the valid
// root.json first, but the kernel would unpack another root.json over it.
func hostileArchives(t *testing.T) map[string][]byte {
	body := validArchive(t)
	valid := zstdOf(t, body+trailer)
	other := dirMember("etc") + dirMember("etc/phase") + fileMember("etc/phase/root.json", "another") + trailer
	skippable := join([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0}, []byte("abcd"))
	with := func(more string) []byte { return zstdOf(t, body+more+trailer) }
	instead := func(old, new string) []byte { return zstdOf(t, strings.Replace(body, old, new, 1)+trailer) }
	modesOf := func(members string) []byte { return zstdOf(t, archiveWith(t, members)) }
	return map[string][]byte{
		"second archive, zstd":               join(valid, zstdOf(t, other)),
		"second archive, gzip":               join(valid, gzipOf(t, other)),
		"second archive, not compressed":     join(valid, []byte(other)),
		"second archive after zeros":         join(valid, make([]byte, 4096), []byte(other)),
		"zeros after":                        join(valid, make([]byte, 4)),
		"one byte after":                     join(valid, []byte{0}),
		"skippable frame after":              join(valid, skippable),
		"skippable frame before":             join(skippable, valid),
		"second archive in the frame":        zstdOf(t, body+trailer+other),
		"second archive after a block":       zstdOf(t, body+trailer+strings.Repeat("\x00", 512)+other),
		"bytes after the trailer":            zstdOf(t, body+trailer+"x"),
		"archive before":                     join(zstdOf(t, other), valid),
		"repeated name":                      with(fileMember("etc/phase/root.json", "another")),
		"repeated name, adjacent":            instead(fileMember("init", "program"), fileMember("init", "program")+fileMember("init", "other")),
		"name with ./":                       with(fileMember("./etc/phase/root.json", "another")),
		"name with /":                        with(fileMember("/etc/phase/root.json", "another")),
		"name with //":                       with(fileMember("lib//x", "another")),
		"name with ..":                       with(fileMember("lib/../etc/phase/root.json", "another")),
		"name that ends with /":              with(dirMember("lib/x/")),
		"name .":                             zstdOf(t, dirMember(".")+body+trailer),
		"name ..":                            zstdOf(t, dirMember("..")+body+trailer),
		"name with NUL":                      with(fileMember("lib/x\x00y", "another")),
		"name with ESC":                      with(fileMember("lib/x\x1b[2J", "another")),
		"empty name":                         with(fileMember("", "another")),
		"name through a symbolic link":       with(linkMember("y", "etc/phase") + fileMember("y/root.json", "another")),
		"folder that is a symbolic link":     zstdOf(t, linkMember("etc", "elsewhere")+fileMember("etc/phase/root.json", "x")+trailer),
		"name without its folder":            with(fileMember("x/y", "another")),
		"hard link":                          with(member("z", modeFile|0o644, 2, "another")),
		"root.json is a symbolic link":       instead(fileMember("etc/phase/root.json", string(testRoot(t))), linkMember("etc/phase/root.json", "/elsewhere")),
		"init is a symbolic link":            instead(fileMember("init", "program"), linkMember("init", "elsewhere")),
		"folder with a body":                 with(member("z", modeDir|0o755, 0, "x")),
		"block device":                       with(member("z", 0o060600, 0, "")),
		"unknown setting":                    instead(fileMember("etc/phase/role", "boot\n"), fileMember("etc/phase/more", "x")+fileMember("etc/phase/role", "boot\n")),
		"root.json that is not JSON":         instead(string(testRoot(t)), strings.Repeat("x", len(testRoot(t)))),
		"role of a target, with a root.json": instead(fileMember("etc/phase/role", "boot\n"), fileMember("etc/phase/role", "target\n")),
		"channel with ESC":                   instead("stable\n", "\x1b[2Ja\n"),
		"no role":                            instead(fileMember("etc/phase/role", "boot\n"), ""),
		"mode that is not a mode":            modesOf(dirMember(modesPath) + fileMember(modesPath+"/lab.json", "{}")),
		"mode of another name":               modesOf(dirMember(modesPath) + fileMember(modesPath+"/lab.json", mustShipped("local"))),
		"mode in a folder of modes":          modesOf(dirMember(modesPath) + dirMember(modesPath+"/x") + fileMember(modesPath+"/x/local.json", mustShipped("local"))),
		"mode that is a symbolic link":       modesOf(dirMember(modesPath) + linkMember(modesPath+"/local.json", "/elsewhere")),
		"mode of another extension":          modesOf(dirMember(modesPath) + fileMember(modesPath+"/local.conf", mustShipped("local"))),
		"large mode":                         modesOf(dirMember(modesPath) + fileMember(modesPath+"/local.json", mustShipped("local")+strings.Repeat(" ", modes.MaxFile))),
		"modes that are a symbolic link":     modesOf(linkMember(modesPath, "/elsewhere")),
		"modes that are a file":              modesOf(fileMember(modesPath, "x")),
		"no init":                            instead(fileMember("init", "program"), ""),
		"no trailer":                         zstdOf(t, body),
		"empty frame":                        zstdOf(t, ""),
		"format with checksums":              zstdOf(t, strings.Replace(body, "070701", "070702", 1)+trailer),
		"signed number in a header":          zstdOf(t, strings.Replace(body, "070701", "070701-", 1)+trailer),
		"bytes in the padding":               zstdOf(t, strings.Replace(body, "program\x00", "program\x01", 1)+trailer),
		"truncated":                          valid[:len(valid)-1],
		"gzip":                               gzipOf(t, body+trailer),
		"not compressed":                     []byte(body + trailer),
	}
}

func TestAttackAnInitramfsThatShowsOneTrustAnchorAndUnpacksToAnother(t *testing.T) {
	b, dir := testBuilder(t), t.TempDir()
	file := filepath.Join(dir, "initramfs")
	verify := func(data []byte) (*Contents, error) {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return b.Verify(t.Context(), file)
	}
	c, err := verify(zstdOf(t, validArchive(t)+trailer))
	if err != nil || c.CompareRoot(testRoot(t)) != nil {
		t.Fatalf("the unchanged one: %v", err)
	}
	for name, data := range hostileArchives(t) {
		_, err := verify(data)
		if !errors.Is(err, cas.ErrCorrupt) && !errors.Is(err, manifest.ErrMalformed) || strings.ContainsRune(err.Error(), 0x1b) {
			t.Errorf("%s: %q", name, err)
		}
	}
}

// validTree returns the smallest partition that Verify accepts.
func validTree(t *testing.T, b *Builder) *espTree {
	t.Helper()
	kernel, err := b.Kernel(t.Context(), testPlatform(t, "vm"), "")
	if err != nil {
		t.Fatal(err)
	}
	image, err := kernel.read(kernel.Image)
	if err != nil {
		t.Fatal(err)
	}
	tree := &espTree{date: time.Unix(1.7e9, 0), files: map[string][]byte{
		"phase/vmlinuz": image, "phase/initramfs.zst": zstdOf(t, validArchive(t)+trailer), "EFI/BOOT/BOOTX64.EFI": []byte("loader"),
	}}
	if err := tree.addEntries(testMedia(t, b)); err != nil {
		t.Fatal(err)
	}
	return tree
}

func (t *espTree) edit(name, old, new string) {
	t.files[name] = []byte(strings.Replace(string(t.files[name]), old, new, 1))
}

func TestAttackAPartitionThatBootsWhatVerifyDoesNotShow(t *testing.T) {
	b, first := testBuilder(t), filepath.Join(t.TempDir(), "esp")
	valid := validTree(t, b)
	if err := errors.Join(os.WriteFile(first, nil, 0o600), b.makeESP(t.Context(), valid, first)); err != nil {
		t.Fatal(err)
	}
	const entry, kernelPath, initramfsPath = "loader/entries/local.conf", "phase/vmlinuz", "phase/initramfs.zst"
	for name, change := range map[string]func(*espTree){
		"":                            func(*espTree) {},
		"second initrd line":          func(e *espTree) { e.edit(entry, "options", "initrd /phase/vmlinuz\noptions") },
		"second initrd line with tab": func(e *espTree) { e.edit(entry, "options", "initrd\t/phase/vmlinuz\noptions") },
		"another initrd":              func(e *espTree) { e.edit(entry, initramfsPath, kernelPath) },
		"another kernel":              func(e *espTree) { e.edit(entry, kernelPath, initramfsPath) },
		"initrd= in the options":      func(e *espTree) { e.edit(entry, "phase.mode", "initrd=/phase/vmlinuz phase.mode") },
		"another architecture":        func(e *espTree) { e.edit(entry, "architecture x64", "architecture aa64") },
		"entry without a loader":      func(e *espTree) { e.files["loader/entries/local_arm64.conf"] = e.files[entry] },
		"loader without a kernel":     func(e *espTree) { e.files["EFI/BOOT/BOOTAA64.EFI"] = []byte("loader") },
		"kernel without a loader":     func(e *espTree) { e.files["phase/arm64/vmlinuz"] = e.files[kernelPath] },
		"default for one set":         func(e *espTree) { e.edit("loader/loader.conf", "local[._]*", "local.conf") },
		"EFI program":                 func(e *espTree) { e.edit(entry, "linux ", "efi /phase/vmlinuz\nlinux ") },
		"device tree":                 func(e *espTree) { e.edit(entry, "linux ", "devicetree /phase/vmlinuz\nlinux ") },
		"line after a CR":             func(e *espTree) { e.edit(entry, "options", "# x\rinitrd /phase/vmlinuz\noptions") },
		"quoted value": func(e *espTree) {
			e.files[entry] = []byte(strings.TrimSuffix(strings.Replace(string(e.files[entry]), "options ", "options \"x\" ", 1), "\n") + " \"y\"\n")
		},
		"ESC in a title":              func(e *espTree) { e.edit(entry, "title ", "title \x1b[2J") },
		"unknown mode":                func(e *espTree) { e.edit(entry, "phase.mode=local", "phase.mode=foo") },
		"unknown hint":                func(e *espTree) { e.edit(entry, "phase.mode=local", "phase.mode=local phase.mirrr=x") },
		"long entry":                  func(e *espTree) { e.files[entry] = append(e.files[entry], bytes.Repeat([]byte("#\n"), 8<<10)...) },
		"editor of the loader":        func(e *espTree) { e.edit("loader/loader.conf", "timeout", "editor yes\ntimeout") },
		"default without an entry":    func(e *espTree) { delete(e.files, entry) },
		"default that is a pattern":   func(e *espTree) { e.edit("loader/loader.conf", "local[._]*", "l*") },
		"entry of another name":       func(e *espTree) { e.files["loader/entries/LOCAL+3.conf"] = e.files[entry] },
		"unified kernel":              func(e *espTree) { e.files["EFI/Linux/x.efi"] = []byte("x") },
		"loader for another firmware": func(e *espTree) { e.files["EFI/BOOT/BOOTIA32.EFI"] = []byte("x") },
		"script of the shell":         func(e *espTree) { e.files["startup.nsh"] = []byte("x") },
		"file next to the kernel":     func(e *espTree) { e.files["phase/x"] = []byte("x") },
		"keys to enroll":              func(e *espTree) { e.files["loader/keys/auto/db.auth"] = []byte("x") },
		"no kernel":                   func(e *espTree) { delete(e.files, kernelPath) },
		"empty loader":                func(e *espTree) { e.files["EFI/BOOT/BOOTX64.EFI"] = nil },
		"truncated kernel":            func(e *espTree) { e.files[kernelPath] = e.files[kernelPath][:6<<20] },
		"second archive":              func(e *espTree) { e.files[initramfsPath] = join(e.files[initramfsPath], e.files[initramfsPath]) },
	} {
		tree := &espTree{files: maps.Clone(valid.files)}
		change(tree)
		file := copyOf(t, first)
		valid.rewriteTo(t, tree, file)
		_, err := b.Verify(t.Context(), file)
		if name == "" && err != nil {
			t.Fatalf("the unchanged one: %v", err)
		}
		if name != "" && (!errors.Is(err, cas.ErrCorrupt) || strings.ContainsRune(err.Error(), 0x1b)) {
			t.Errorf("%s: %q", name, err)
		}
	}
}

// Firmware could boot from the reserved sectors before it reads the files of the partition.
func TestAttackAPartitionThatIsAlsoADisk(t *testing.T) {
	whole := smallFAT()
	if _, err := openFAT(padded{whole, smallFATSize}, smallFATSize); err != nil {
		t.Fatalf("the unchanged one: %v", err)
	}
	for name, change := range map[string]func(b []byte){
		"another boot program": func(b []byte) { b[100] = 0x90 },
		"another jump":         func(b []byte) { b[1] = 0x10 },
		"a protective MBR":     func(b []byte) { copy(b[446:], "\x00\x00\x02\x00\xee\xff\xff\xff\x01\x00\x00\x00\xff\xff\x00\x00") },
		"a GPT":                func(b []byte) { copy(b[sector:], "EFI PART") },
		"more boot code":       func(b []byte) { b[2*sector] = 0xeb },
	} {
		b := smallFAT()
		change(b)
		copy(b[6*sector:7*sector], b)
		if _, err := openFAT(padded{b, smallFATSize}, smallFATSize); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A file may be a zstd frame and a disk at once, because blocks of a frame hold any bytes.
func TestAttackAnInitramfsThatIsAlsoADisk(t *testing.T) {
	for name, change := range map[string]func(b []byte){
		"": func([]byte) {},
		"an MBR": func(b []byte) {
			copy(b[446:], "\x00\x00\x02\x00\xee\xff\xff\xff\x01\x00\x00\x00\xff\xff\x00\x00")
			copy(b[510:], "\x55\xaa")
		},
		"a FAT": func(b []byte) { copy(b[11:], smallFAT()[11:sector]); b[21] = 0xf8 },
		"a CD":  func(b []byte) { copy(b[32769:], "CD001") },
	} {
		b := append([]byte("\x28\xb5\x2f\xfd"), make([]byte, 64<<10)...)
		change(b)
		if _, err := new(Contents).detectKind(bytes.NewReader(b)); (name != "") != errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Firmware ends a long name at its first NUL, even if more long-name entries follow.
func TestAttackALongNameThatEndsEarly(t *testing.T) {
	piece := func(number byte, name string) []byte {
		b := make([]byte, dirEntry)
		b[0], b[11] = number, attrLong
		for i, at := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
			if i < len(name) {
				b[at] = name[i]
			}
		}
		return b
	}
	for first, good := range map[string]bool{"thirteen-char": true, "short": false} {
		p := dirParser{}
		if err := errors.Join(p.add(piece(0x42, "end")), p.add(piece(1, first))); (err == nil) != good {
			t.Errorf("%q: %v", first, err)
		}
	}
}

// rewriteTo changes the files of a filesystem from t to other.
func (t *espTree) rewriteTo(test *testing.T, other *espTree, file string) {
	mtools := func(name string, args ...string) error {
		return command(name, append([]string{"-i", file}, args...)...).with("MTOOLSRC=/dev/null").run(test.Context())
	}
	local := filepath.Join(test.TempDir(), "file")
	for name, data := range other.files {
		if old, found := t.files[name]; found && bytes.Equal(old, data) {
			continue
		}
		parts := strings.Split(path.Dir(name), "/")
		for i := range parts {
			_ = mtools("mmd", "-D", "s", "::/"+strings.Join(parts[:i+1], "/")) // it may be there
		}
		if err := errors.Join(os.WriteFile(local, data, 0o600), mtools("mcopy", "-o", local, "::/"+name)); err != nil {
			test.Fatal(err)
		}
	}
	for name := range t.files {
		if _, found := other.files[name]; !found {
			if err := mtools("mdel", "::/"+name); err != nil {
				test.Fatal(err)
			}
		}
	}
}

func copyOf(t *testing.T, image string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "--sparse=always", image, file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return file
}

// validDisk makes an image of 300 MiB with a validTree.
func validDisk(t *testing.T, b *Builder) string {
	t.Helper()
	tree, file := validTree(t, b), filepath.Join(t.TempDir(), "disk")
	err := errors.Join(os.WriteFile(file, nil, 0o600), b.makeDisk(t.Context(), tree, layOut(tree, 300*mib), file))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// patch overwrites bytes of a file. A negative offset counts from the end.
func patch(t *testing.T, file string, at int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if at < 0 {
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		at += info.Size()
	}
	if _, err := f.WriteAt(data, at); err != nil {
		t.Fatal(err)
	}
}

func TestAttackADiskThatBootsWhatVerifyDoesNotShow(t *testing.T) {
	b := testBuilder(t)
	valid := validDisk(t, b)
	const fat1 = firstPartition + fatReserved*sector
	sgdisk := func(args ...string) func(string) {
		return func(file string) {
			if out, err := exec.Command("sgdisk", append(args, file)...).CombinedOutput(); err != nil {
				t.Fatalf("sgdisk: %v\n%s", err, out)
			}
		}
	}
	bytesAt := func(at int64, data string) func(string) {
		return func(file string) { patch(t, file, at, []byte(data)) }
	}
	for name, change := range map[string]func(string){
		"":                             func(string) {},
		"boot code":                    bytesAt(0, "\xeb\xfe"),
		"second partition in the MBR":  bytesAt(446+16, "\x80\x00\x02\x00\x0c\x00\x02\x00\x00\x08\x00\x00\x00\x08\x00\x00"),
		"bytes in the gap":             bytesAt(40*sector, "x"),
		"third partition":              sgdisk("--set-alignment=1", "--new=3:34:2047", "--typecode=3:EF00"),
		"second system partition":      sgdisk("--typecode=2:EF00"),
		"extended boot partition":      sgdisk("--typecode=2:EA00"),
		"attribute of a partition":     sgdisk("--attributes=2:set:2"),
		"other entries in the backup":  bytesAt(-33*sector+200, "x"),
		"another header of the backup": bytesAt(-sector+60, "x"),
		"no backup of the table":       bytesAt(-sector, strings.Repeat("\x00", sector)),
		"truncated":                    func(file string) { _ = os.Truncate(file, 290*mib) },
		"another boot sector":          bytesAt(firstPartition+3, "x"),
		"another copy of boot sector":  bytesAt(firstPartition+6*sector+3, "x"),
		"FAT":                          bytesAt(fat1+4*5000, "x"),
		"circular cluster chain":       func(file string) { patchFAT(t, file, 3, 3) },
		"chain that leaves the FAT":    func(file string) { patchFAT(t, file, 3, 0x0ffffff0) },
		"folder that is the root":      func(file string) { patchFAT(t, file, 3, 2) },
		"root folder without an end":   func(file string) { patchFAT(t, file, 2, 3) },
		"ext4 superblock":              bytesAt(firstPartition+minESP+1024, strings.Repeat("Z", 512)),
	} {
		file := copyOf(t, valid)
		change(file)
		_, err := b.Verify(t.Context(), file)
		if name == "" && err != nil {
			t.Fatalf("the unchanged one: %v", err)
		}
		if name != "" && !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// patchFAT sets the FAT entry of a cluster in both copies of the FAT.
func patchFAT(t *testing.T, file string, cluster int64, link uint32) {
	length := int64((minESP/clusterSize*4 + sector - 1) / sector * sector)
	value := []byte{byte(link), byte(link >> 8), byte(link >> 16), byte(link >> 24)}
	for i := range int64(2) {
		patch(t, file, firstPartition+fatReserved*sector+i*length+4*cluster, value)
	}
}

// Verify returns the same result for an image and for a larger stick that holds the image.
func TestAWrittenStickIsVerified(t *testing.T) {
	b := testBuilder(t)
	file := validDisk(t, b)
	before, err := b.Verify(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	patch(t, file, 333*mib, []byte("old bytes of the stick"))
	after, err := b.Verify(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	if after.SHA256 != before.SHA256 || after.Size != before.Size || after.TrailingBytes < 33*mib {
		t.Errorf("%d bytes and %d after, sha256 %s; before %d, sha256 %s", after.Size, after.TrailingBytes, after.SHA256, before.Size, before.SHA256)
	}
	if out, err := exec.Command("sgdisk", "-e", file).CombinedOutput(); err != nil { // some installers "repair" a stick in this way
		t.Fatalf("%v\n%s", err, out)
	}
	if c, err := b.Verify(t.Context(), file); err != nil || c.TrailingBytes >= sector {
		t.Errorf("backup table at the end of the device: %v", err)
	}
}

func TestAnotherRootIsUntrusted(t *testing.T) {
	b := testBuilder(t)
	file := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(file, zstdOf(t, validArchive(t)+trailer), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := b.Verify(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.NotCompared) != 2 || !strings.Contains(c.NotCompared[0], "--root compares") || !strings.HasPrefix(c.NotCompared[1], "init, modules: not compared") {
		t.Errorf("not compared: %q", c.NotCompared)
	}
	if err := c.CompareRoot(testRoot(t)); err != nil {
		t.Error(err)
	}
	if len(c.NotCompared) != 1 || !strings.Contains(c.NotCompared[0], "--rebuild compares") {
		t.Errorf("not compared, after CompareRoot: %q", c.NotCompared)
	}
	if err := c.CompareRoot(append(testRoot(t), '\n')); !errors.Is(err, manifest.ErrUntrusted) {
		t.Errorf("got %v", err)
	}
}

// Sizes in a hostile initramfs do not decide how much memory Verify allocates.
func TestBombsCostNoMemory(t *testing.T) {
	b := testBuilder(t)
	body := validArchive(t)
	huge := member("z", modeFile|0o644, 0, "")
	huge = huge[:54] + "F0000000" + huge[62:]
	longName := member("z", modeFile|0o644, 0, "")
	longName = longName[:94] + "F0000000" + longName[102:]
	many := strings.Builder{}
	for i := range maxRecords + 1 {
		many.WriteString(fileMember(fmt.Sprintf("z%07d", i), ""))
	}
	window := zstdOf(t, body+trailer)
	window[4], window[5] = window[4]&^0x20, 0xa8 // a window of 2 GiB
	for name, data := range map[string][]byte{
		"4 GiB of zeros":  zeroBomb(t, body+huge, maxUnpacked+1),
		"4 GiB of a name": zstdOf(t, body+longName),
		"many files":      zstdOf(t, body+many.String()+trailer),
		"a huge window":   window,
	} {
		file := filepath.Join(t.TempDir(), "initramfs")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := b.Verify(t.Context(), file)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 64*mib {
			t.Errorf("%s: %d MiB", name, took/mib)
		}
	}
}

// zeroBomb returns one frame with text and n zeros.
func zeroBomb(t *testing.T, text string, n int64) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(zstdWindow), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, mib)
	for ; n > 0; n -= mib {
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
