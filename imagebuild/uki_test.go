package imagebuild

import (
	"bytes"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

// armMedia returns the media of testMedia for arm64.
func armMedia(t *testing.T, b *Builder) Media {
	m := testMedia(t, b)
	m.Platform, m.PhaseBoot = armPlatform(t, "vm"), armProgram(t, b)
	return m
}

// binutils are the programs of binutils that know the EFI programs of an architecture.
var binutils = map[string]string{"x86_64": "x86_64-linux-gnu-", "arm64": "aarch64-linux-gnu-"}

// ukiSource returns a stub, and the parts of a UKI with Debian's kernel.
func ukiSource(t *testing.T, b *Builder) (stub []byte, parts [][]byte) {
	t.Helper()
	tree := validTree(t, b)
	kernel, err := b.Kernel(t.Context(), testPlatform(t, "vm"), "")
	if err != nil {
		t.Fatal(err)
	}
	tree.info.DefaultMode, tree.info.Kernel = "local", kernel.Version
	if parts, err = tree.ukiParts(testPlatform(t, "vm")); err != nil {
		t.Fatal(err)
	}
	if stub, err = b.stub(t.Context(), testPlatform(t, "vm")); err != nil {
		t.Fatal(err)
	}
	return stub, parts
}

var objdumpSection = regexp.MustCompile(`(?m)^ +\d+ (\.[a-z]+) +([0-9a-f]+) +([0-9a-f]+) +[0-9a-f]+ +([0-9a-f]+) `)

// objdump and objcopy of binutils are the judges: they find each section with the bytes that were
// put in, and no two sections have common addresses or bytes of the file.
func TestUKIHasItsInputsInSectionsThatDoNotOverlap(t *testing.T) {
	b := testBuilder(t)
	for arch, media := range map[string]Media{"x86_64": testMedia(t, b), "arm64": armMedia(t, b)} {
		t.Run(arch, func(t *testing.T) { ukiHasItsInputs(t, b, media) })
	}
}

func ukiHasItsInputs(t *testing.T, b *Builder, media Media) {
	dir := t.TempDir()
	image, archive := filepath.Join(dir, "1.efi"), filepath.Join(dir, "initramfs")
	if _, err := b.WriteUKI(t.Context(), media, image); err != nil {
		t.Fatal(err)
	}
	if _, err := b.WriteInitramfs(t.Context(), media.Initramfs, archive); err != nil {
		t.Fatal(err)
	}
	kernel, err := b.Kernel(t.Context(), media.Platform, "")
	if err != nil {
		t.Fatal(err)
	}
	c, err := b.Verify(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	seconds, err := strconv.ParseInt(c.BuildTime, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{
		sectionKernel: read(t, filepath.Join(kernel.dir, kernel.Image)), sectionInitramfs: read(t, archive), sectionUname: []byte(kernel.Version),
		sectionCmdline: []byte("console=tty0 console=" + media.Platform.serial + ",115200 quiet panic=30 phase.mode=local phase.mirror=http://192.0.2.1"),
		sectionRelease: []byte("ID=phase-boot\nNAME=\"Phase Boot\"\nPRETTY_NAME=\"Phase Boot, mode local\"\nVERSION_ID=" + time.Unix(seconds, 0).UTC().Format("20060102") + "\n"),
	} {
		file := filepath.Join(dir, "section")
		output(t, binutils[c.Arch]+"objcopy -O binary --dump-section "+name+"="+file+" "+image+" /dev/null")
		// objcopy does not always know where a section ends in its last 512 bytes
		if got := read(t, file); !bytes.Equal(got[:min(len(got), len(want))], want) || !allZero(got[len(want):]) || len(got)-len(want) >= 512 {
			t.Errorf("section %s differs from its input", name)
		}
	}
	stub, err := b.stub(t.Context(), media.Platform)
	if err != nil {
		t.Fatal(err)
	}
	if sum := fmt.Sprintf("%x", sha256.Sum256(stub)); c.Loader != sum {
		t.Errorf("stub: sha256 %s, want %s", c.Loader, sum)
	}
	checkSectionTable(t, c.Arch, image, len(read(t, image)))
	again := Rebuild{PhaseBoot: func(string) (string, error) { return media.PhaseBoot, nil }}
	if err := b.CompareRebuild(t.Context(), c, again); err != nil { // the same inputs give the same bytes
		t.Error(err)
	}
	passed(t, "uki "+c.Arch, "objdump", "verify")
}

// checkSectionTable reads the section table with objdump.
func checkSectionTable(t *testing.T, arch, file string, size int) {
	t.Helper()
	var names []string
	address, offset := int64(0), int64(0)
	for _, m := range objdumpSection.FindAllStringSubmatch(output(t, binutils[arch]+"objdump -h "+file), -1) {
		hex := func(s string) int64 {
			n, err := strconv.ParseInt(s, 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		length, at, from := hex(m[2]), hex(m[3]), hex(m[4])
		if at < address || from < offset || from+length > int64(size) {
			t.Errorf("section %s: address %#x, offset %#x overlap the section before, which ends at %#x, %#x", m[1], at, from, address, offset)
		}
		if slices.Contains(ukiSections, m[1]) && (at%4096 != 0 || from%512 != 0) {
			t.Errorf("section %s: address %#x or offset %#x is not aligned", m[1], at, from)
		}
		names, address, offset = append(names, m[1]), at+length, from+length
	}
	if n := len(names) - len(ukiSections); n < 1 || !slices.Equal(names[n:], ukiSections) {
		t.Errorf("sections: %v", names)
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Stub, loader or firmware could read each of these in another way than verify shows it, or they
// have content that verify does not show.
func TestAttackAUKIThatBootsWhatVerifyDoesNotShow(t *testing.T) {
	b, file := testBuilder(t), filepath.Join(t.TempDir(), "x.efi")
	stub, parts := ukiSource(t, b)
	valid, err := joinUKI(stub, parts)
	if err != nil {
		t.Fatal(err)
	}
	h, err := readPEHeader(bytes.NewReader(valid), int64(len(valid)))
	if err != nil {
		t.Fatal(err)
	}
	put16, put32 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32
	entry := func(b []byte, name string) []byte {
		i := slices.IndexFunc(h.table, func(s pe.SectionHeader32) bool { return peName(s) == name })
		return b[h.tableAt()+40*i:][:40]
	}
	with := func(i int, data string) func([]byte) []byte {
		return func([]byte) []byte {
			changed := slices.Clone(parts)
			changed[i] = []byte(data)
			made, err := joinUKI(stub, changed)
			if err != nil {
				t.Fatal(err)
			}
			return made
		}
	}
	at := func(change func(b []byte)) func([]byte) []byte {
		return func(b []byte) []byte { change(b); return b }
	}
	opt := h.at + 24
	for name, change := range map[string]func([]byte) []byte{
		"":                       func(b []byte) []byte { return b },
		"initrd= in the options": with(1, "phase.mode=local initrd=/x"),
		"unknown mode": func([]byte) []byte {
			changed := slices.Clone(parts)
			changed[0], changed[1] = []byte(osRelease("foo", time.Unix(1.7e9, 0))), []byte("phase.mode=foo")
			made, err := joinUKI(stub, changed)
			if err != nil {
				t.Fatal(err)
			}
			return made
		},
		"unknown hint":                   with(1, "phase.mirrr=x"),
		"ESC on the command line":        with(1, "phase.mode=local \x1b[2J"),
		"NUL on the command line":        with(1, "phase.mode=local\x00init=/x"),
		"os-release of another":          with(0, string(parts[0])+"NAME=x\n"),
		"mode of another":                with(1, "phase.mode=internet"),
		"another version":                with(2, "6.0.0-evil"),
		"second archive":                 with(3, string(parts[3])+string(parts[3])),
		"zeros after the archive":        with(3, string(parts[3])+"\x00\x00\x00\x00"),
		"not a kernel":                   with(4, string(parts[3])),
		"truncated kernel":               with(4, string(parts[4][:6<<20])),
		"bytes after the end":            func(b []byte) []byte { return append(b, 0) },
		"a page after the end":           func(b []byte) []byte { return append(b, make([]byte, 4096)...) },
		"truncated":                      func(b []byte) []byte { return b[:len(b)-512] },
		"bytes in the padding":           at(func(b []byte) { b[len(stub)] = 1 }),
		"checksum":                       at(func(b []byte) { b[h.checksumAt()] ^= 1 }),
		"repeated section":               at(func(b []byte) { copy(entry(b, ".uname"), ".cmdline") }),
		"second initrd":                  at(func(b []byte) { copy(entry(b, ".uname"), ".initrd\x00") }),
		"section of a device tree":       at(func(b []byte) { copy(entry(b, ".uname"), ".dtb\x00\x00\x00\x00") }),
		"initrd inside the stub":         at(func(b []byte) { copy(entry(b, ".dynamic"), ".initrd\x00") }),
		"unknown section":                at(func(b []byte) { copy(entry(b, ".dynamic"), ".profile") }),
		"name with bytes after NUL":      at(func(b []byte) { entry(b, ".linux")[7] = 'x' }),
		"shorter section":                at(func(b []byte) { put32(entry(b, ".cmdline")[8:], 3) }),
		"longer section":                 at(func(b []byte) { put32(entry(b, ".linux")[8:], uint32(len(parts[4])+4096)) }),
		"empty section":                  at(func(b []byte) { put32(entry(b, ".uname")[8:], 0) }),
		"another address":                at(func(b []byte) { entry(b, ".linux")[13] ^= 0x10 }),
		"executable section":             at(func(b []byte) { entry(b, ".linux")[39] |= 0x20 }),
		"address over the stub":          at(func(b []byte) { put32(entry(b, ".osrel")[12:], 0x4000) }),
		"section outside the file":       at(func(b []byte) { put32(entry(b, ".linux")[20:], 0x7fffffff) }),
		"relocations of a section":       at(func(b []byte) { entry(b, ".linux")[24] = 1 }),
		"fewer sections":                 at(func(b []byte) { put16(b[h.at+6:], h.file.NumberOfSections-1) }),
		"more sections":                  at(func(b []byte) { put16(b[h.at+6:], 900) }),
		"a header entry after the table": at(func(b []byte) { b[h.tableEnd()] = 1 }),
		"certificates":                   at(func(b []byte) { put32(b[opt+144:], uint32(len(b)-512)); put32(b[opt+148:], 512) }),
		"size in memory":                 at(func(b []byte) { put32(b[opt+56:], h.opt.SizeOfImage+4096) }),
		"another machine":                at(func(b []byte) { put16(b[h.at+4:], 0x14c) }),
		"alignment of 0":                 at(func(b []byte) { put32(b[opt+36:], 0) }),
		"PE header far away":             at(func(b []byte) { put32(b[60:], 0x7ffffff0) }),
		"symbols outside the file":       at(func(b []byte) { put32(b[h.at+12:], 0xfffffff0) }),
		"symbols over the parts":         at(func(b []byte) { put32(b[h.at+16:], 1<<20) }),
		"a disk": at(func(b []byte) {
			copy(b[446:], "\x00\x00\x02\x00\xee\xff\xff\xff\x01\x00\x00\x00\xff\xff\x00\x00")
			copy(b[510:], "\x55\xaa")
		}),
		"a CD": at(func(b []byte) { copy(b[32769:], "CD001") }),
	} {
		if err := os.WriteFile(file, change(slices.Clone(valid)), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := b.Verify(t.Context(), file)
		if name == "" && err != nil {
			t.Fatalf("the unchanged one: %v", err)
		}
		if name != "" && (!errors.Is(err, cas.ErrCorrupt) || bytes.ContainsRune([]byte(err.Error()), 0x1b)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A stub that is cut short, changed, or already a UKI is refused, not built in.
func TestUKIStubIsCheckedBeforeItIsUsed(t *testing.T) {
	stub, err := testBuilder(t).stub(t.Context(), testPlatform(t, "vm"))
	if err != nil {
		t.Fatal(err)
	}
	parts := [][]byte{{1}, {2}, {3}, {4}, {5}}
	uki, err := joinUKI(stub, parts)
	if err != nil {
		t.Fatal(err)
	}
	changed := slices.Clone(stub)
	changed[len(changed)-9] ^= 1
	for name, data := range map[string][]byte{
		"truncated": stub[:len(stub)-1], "longer": append(slices.Clone(stub), 0), "changed": changed, "a UKI": uki, "a text": []byte("text"), "empty": nil,
	} {
		if _, err := joinUKI(data, parts); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Debian 12's stub for arm64 has fewer data directories, no-operation instructions after its section table, and bytes
// that firmware does not load. All bytes of its UKI are known too.
func TestAttackTheHeaderOfAUKIForArm64(t *testing.T) {
	stub := smallStub(6, noOperation)
	file := append(slices.Clone(stub), "not loaded"...)
	if got, err := loadedStub(file); err != nil || !bytes.Equal(got, stub) {
		t.Fatalf("loadedStub: %v", err)
	}
	uki, err := joinUKI(stub, [][]byte{{1}, []byte("phase.mode=local"), {3}, {4}, {5}})
	if err != nil {
		t.Fatal(err)
	}
	u, err := openUKI(bytes.NewReader(uki), int64(len(uki)))
	if err != nil || u.arch != "arm64" || u.stubSum != fmt.Sprintf("%x", sha256.Sum256(stub)) {
		t.Fatalf("%+v, %v", u, err)
	}
	h, err := readPEHeader(bytes.NewReader(uki), int64(len(uki)))
	if err != nil {
		t.Fatal(err)
	}
	change := func(at int, to ...byte) []byte {
		bad := slices.Clone(uki)
		copy(bad[at:], to)
		return bad
	}
	end := int(h.opt.SizeOfHeaders)
	for name, bad := range map[string][]byte{
		"another instruction":      change(end-4, 0, 0, 0, 0x14),
		"zeros and no operations":  change(h.tableEnd(), make([]byte, 8)...),
		"no operations for x86":    change(h.at+4, 0x64, 0x86),
		"5 data directories":       change(h.at+24+108, 5),
		"optional header: 168":     change(h.at+20, 168),
		"optional header: 144":     change(h.at+20, 144),
		"optional header: 248":     change(h.at+20, 248),
		"optional header: 65,535":  change(h.at+20, 0xff, 0xff),
		"a signature of 8 bytes":   change(h.at+24+peFields+8*dirCertificates, 0, 4, 0, 0, 8),
		"bytes that are no header": append(slices.Clone(uki), "not loaded"...),
	} {
		if _, err := openUKI(bytes.NewReader(bad), int64(len(bad))); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzUKI checks that a UKI that is accepted is the one that its stub and its sections give.
func FuzzUKI(f *testing.F) {
	for _, stub := range [][]byte{smallStub(16, make([]byte, 4)), smallStub(6, noOperation)} {
		uki, err := joinUKI(stub, [][]byte{{1}, []byte("phase.mode=local"), {3}, {4}, {5}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uki)
		f.Add(stub)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		u, err := openUKI(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			if !errors.Is(err, cas.ErrCorrupt) {
				t.Error(err)
			}
			return
		}
		h, err := readPEHeader(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		stub := h.without(len(ukiSections))
		end, err := stub.end(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		head, err := stub.encode()
		if err != nil {
			t.Fatal(err)
		}
		program := append(head, data[len(head):end]...)
		if err := stub.setChecksum(program); err != nil {
			t.Fatal(err)
		}
		if sum := fmt.Sprintf("%x", sha256.Sum256(program)); sum != u.stubSum {
			t.Errorf("stub has sha256 %s, shown %s", sum, u.stubSum)
		}
		var parts [][]byte
		for _, s := range h.table[len(stub.table):] {
			parts = append(parts, data[s.PointerToRawData:][:s.VirtualSize])
		}
		if again, err := joinUKI(program, parts); err == nil && !bytes.Equal(again, data) {
			t.Error("made again, it differs")
		}
	})
}

// smallStub returns the smallest stub: headers with so many data directories and this filler, and one section.
func smallStub(directories uint32, filler []byte) []byte {
	optional := uint16(peFields + 8*directories)
	h := &peHeader{raw: make([]byte, 1024), at: 64, file: pe.FileHeader{Machine: pe.IMAGE_FILE_MACHINE_ARM64, NumberOfSections: 1, SizeOfOptionalHeader: optional}}
	copy(h.raw, "MZ")
	h.raw[60] = 64
	copy(h.raw[64:], "PE")
	h.opt = pe.OptionalHeader64{Magic: 0x20b, FileAlignment: 512, SectionAlignment: 4096, SizeOfHeaders: 1024, SizeOfImage: 8192, NumberOfRvaAndSizes: directories}
	h.table = []pe.SectionHeader32{{Name: [8]uint8{'.', 't', 'e', 'x', 't'}, VirtualSize: 4, VirtualAddress: 4096, SizeOfRawData: 512, PointerToRawData: 1024}}
	copy(h.raw[h.tableEnd():], fill(len(h.raw)-h.tableEnd(), filler))
	head, err := h.encode()
	if err != nil {
		panic(err)
	}
	return append(head, make([]byte, 512)...)
}
