package imagebuild

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/authenticode"
	"github.com/phaseboot/phaseboot/internal/bootargs"
)

// Sections of a unified kernel image (UAPI.5) in the order of the file. The kernel is the last one,
// because it may unpack itself to the memory after it.
const (
	sectionRelease   = ".osrel"
	sectionCmdline   = ".cmdline"
	sectionUname     = ".uname"
	sectionInitramfs = ".initrd"
	sectionKernel    = ".linux"
)

var ukiSections = []string{sectionRelease, sectionCmdline, sectionUname, sectionInitramfs, sectionKernel}

// stubSections are the sections of systemd's stub: those of version 252, then those of 257.
var stubSections = []string{".text", ".reloc", ".data", ".dynamic", ".rela", ".dynsym", ".sbat", ".sdmagic", ".rodata"}

// WriteUKI builds a unified kernel image and writes it to out: an EFI program with the kernel, the
// initramfs and the command line of the default mode. Firmware starts it from a disk or by HTTP,
// without a boot loader.
func (b *Builder) WriteUKI(ctx context.Context, m Media, out string) (*MediaInfo, error) {
	if err := checkOut(out); err != nil {
		return nil, err
	}
	if err := requireTools("zstd"); err != nil {
		return nil, err
	}
	tree, image, err := b.uki(ctx, m)
	if err != nil {
		return nil, err
	}
	info := tree.info
	info.Out, info.Size, info.ESP = out, int64(len(image)), 0
	return &info, atomicfile.Write(out, 0o644, image)
}

// uki makes a UKI from the files of a boot medium, which it returns too.
func (b *Builder) uki(ctx context.Context, m Media) (*espTree, []byte, error) {
	if bootargs.Parse(m.Cmdline).Mode != "" {
		return nil, nil, optionsf("cmdline: phase.mode: a UKI has one boot mode; name it with --default-mode")
	}
	if m.Bootloader != "" && m.Bootloader != LoaderSystemd {
		return nil, nil, optionsf("bootloader %.40q: a signed image has none, because firmware starts the UKI; remove the option", m.Bootloader)
	}
	if len(m.Others) > 0 {
		return nil, nil, optionsf("arch: a UKI, which a signed image starts, is for one architecture; use --arch %s", m.Platform.Arch)
	}
	tree, err := b.menuTree(ctx, m)
	if err != nil {
		return nil, nil, err
	}
	tree.info.Modes = []string{tree.info.DefaultMode}
	stub, err := b.stub(ctx, m.Platform)
	if err != nil {
		return nil, nil, err
	}
	parts, err := tree.ukiParts(m.Platform)
	if err != nil {
		return nil, nil, err
	}
	image, err := joinUKI(stub, parts)
	if err == nil && m.Signing != nil {
		image, err = m.Signing.Sign(image)
	}
	return tree, image, err
}

// stub reads systemd's stub for UKIs as firmware loads it. Its file is in the package and the folder of the boot loader.
func (b *Builder) stub(ctx context.Context, p Platform) ([]byte, error) {
	dir, err := b.packageFiles(ctx, loaderPackage, p)
	if err != nil {
		return nil, err
	}
	folder, name := path.Split(p.loader())
	file, err := firstFile(dir, folder+strings.Replace(name, "systemd-boot", "linux", 1)+".stub")
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return loadedStub(data)
}

// loadedStub returns a stub without the bytes after its last section and its symbols, which firmware does not load, and
// with its size in memory rounded to whole pages. Only Debian 12's stub for arm64 has such bytes.
func loadedStub(stub []byte) ([]byte, error) {
	r := bytes.NewReader(stub)
	h, err := readPEHeader(r, r.Size())
	if err != nil {
		return nil, fmt.Errorf("stub: %w", err)
	}
	end, err := h.end(r)
	if err != nil || end > r.Size() {
		return nil, fmt.Errorf("stub: %w", cmp.Or(err, badPE("%d bytes, want %d", r.Size(), end)))
	}
	h.opt.SizeOfImage = h.loadedSize()
	head, err := h.encode()
	if err != nil {
		return nil, err
	}
	return append(head, stub[len(head):end]...), nil
}

// ukiParts returns the bytes of ukiSections: what the boot medium's entry of the default mode starts.
func (t *espTree) ukiParts(p Platform) ([][]byte, error) {
	entry, err := readBootEntry(p.architecture, t.info.DefaultMode, string(t.files[entriesPath+"/"+p.entryName(t.info.DefaultMode)]))
	if err != nil {
		return nil, err
	}
	return [][]byte{
		[]byte(osRelease(entry.Boots, t.date)), []byte(entry.Cmdline), []byte(t.info.Kernel), t.files[p.initramfsPath()], t.files[p.kernelPath()],
	}, nil
}

// osRelease is the os-release file of a UKI (os-release(5)), from which a boot menu shows its name.
func osRelease(mode string, date time.Time) string {
	return strings.NewReplacer("@MODE@", mode, "@VERSION@", date.UTC().Format("20060102")).Replace(dataFile("esp/os-release"))
}

// joinUKI adds ukiSections to the stub.
func joinUKI(stub []byte, parts [][]byte) ([]byte, error) {
	r := bytes.NewReader(stub)
	h, err := readStub(r)
	if err != nil {
		return nil, fmt.Errorf("stub: %w", err)
	}
	full, err := h.with(int64(len(stub)), peSections(parts))
	if err != nil {
		return nil, err
	}
	head, err := full.encode()
	if err != nil {
		return nil, err
	}
	last := full.table[len(full.table)-1]
	out := make([]byte, last.PointerToRawData+last.SizeOfRawData)
	copy(out, stub)
	copy(out, head)
	for i, part := range parts {
		copy(out[full.table[len(h.table)+i].PointerToRawData:], part)
	}
	return out, full.setChecksum(out)
}

func peSections(parts [][]byte) (all []peSection) {
	for i, part := range parts {
		all = append(all, peSection{ukiSections[i], int64(len(part))})
	}
	return all
}

// readStub reads the header of a stub from which a UKI can be made, and made again: without would
// give the same header.
func readStub(stub *bytes.Reader) (*peHeader, error) {
	h, err := readPEHeader(stub, stub.Size())
	if err != nil {
		return nil, err
	}
	if err := checkSectionNames(h.table, stubSections); err != nil {
		return nil, err
	}
	end, err := h.end(stub)
	if err != nil {
		return nil, err
	}
	sum, err := authenticode.Checksum(io.NewSectionReader(stub, 0, stub.Size()), h.checksumAt())
	switch {
	case err != nil:
		return nil, err
	case end != stub.Size():
		return nil, badPE("%d bytes, want %d", stub.Size(), end)
	case h.opt.SizeOfImage != h.loadedSize():
		return nil, badPE("size in memory %d, want %d", h.opt.SizeOfImage, h.loadedSize())
	case h.opt.CheckSum != 0 && h.opt.CheckSum != sum:
		return nil, badPE("checksum %#x, want %#x", h.opt.CheckSum, sum)
	case h.filler() == nil || h.opt.DataDirectory[dirCertificates].VirtualAddress != 0:
		return nil, badPE("signed, or with data after its section table")
	}
	return h, nil
}

// setChecksum writes the checksum of a program with this header, unless its stub had none.
func (h *peHeader) setChecksum(program []byte) error {
	if h.opt.CheckSum == 0 {
		return nil
	}
	return authenticode.SetChecksum(program, h.checksumAt())
}
