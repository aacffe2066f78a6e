package imagebuild

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"debug/pe"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/authenticode"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/modes"
)

// A ukiReader is a UKI of which all bytes are known to be those that joinUKI writes, except the
// content of the sections and of the stub.
type ukiReader struct {
	arch     string
	stubSum  string            // SHA-256 of the stub's file in hex
	signer   *x509.Certificate // nil: not signed
	made     []byte            // the signature
	sections map[string]*io.SectionReader
}

// checkSectionNames refuses a section that is not one of known, and a repeated one.
func checkSectionNames(table []pe.SectionHeader32, known []string) error {
	seen := map[string]bool{}
	for _, s := range table {
		name := peName(s)
		if !slices.Contains(known, name) || seen[name] {
			return badPE("section %.8q: repeated, or phase-image does not write it there", name)
		}
		seen[name] = true
	}
	return nil
}

// openUKI reads the headers of a UKI. It takes the stub out of it, adds the sections again, and
// refuses a file that differs from the result.
func openUKI(r io.ReaderAt, size int64) (*ukiReader, error) {
	h, err := readPEHeader(r, size)
	if err != nil {
		return nil, err
	}
	signer, unsigned, err := h.takeSignature(r, size)
	if err != nil {
		return nil, err
	}
	if h.filler() == nil {
		return nil, badPE("data after its section table")
	}
	n := len(h.table) - len(ukiSections)
	if n < 0 {
		return nil, badPE("%d sections; a UKI of phase-image ends with %s", len(h.table), strings.Join(ukiSections, ", "))
	}
	var parts []peSection
	for i, name := range ukiSections {
		if s := h.table[n+i]; peName(s) != name || s.VirtualSize == 0 {
			return nil, badPE("section %.8q of %d bytes in place of %s; a UKI of phase-image ends with %s", peName(s), s.VirtualSize, name, strings.Join(ukiSections, ", "))
		}
		parts = append(parts, peSection{name, int64(h.table[n+i].VirtualSize)})
	}
	if err := checkSectionNames(h.table[:n], stubSections); err != nil {
		return nil, err
	}
	stub := h.without(len(ukiSections))
	end, err := stub.end(r)
	if err != nil {
		return nil, err
	}
	again, err := stub.with(end, parts)
	if err != nil {
		return nil, err
	}
	if err := again.compare(h, r, size, unsigned, end, n); err != nil {
		return nil, err
	}
	u := &ukiReader{arch: peArch(h.file.Machine), signer: signer, sections: map[string]*io.SectionReader{}}
	for _, s := range h.table[n:] {
		u.sections[peName(s)] = io.NewSectionReader(r, int64(s.PointerToRawData), int64(s.VirtualSize))
	}
	if signer != nil {
		u.made = make([]byte, size-unsigned)
		if err := readFull(r, u.made, unsigned); err != nil {
			return nil, err
		}
	}
	u.stubSum, err = stub.sum(r, end)
	return u, err
}

// takeSignature checks the signature of a program and removes its place from the header. It returns the
// certificate, nil without a signature, and the size of the program without the signature.
func (h *peHeader) takeSignature(r io.ReaderAt, size int64) (*x509.Certificate, int64, error) {
	dir := &h.opt.DataDirectory[dirCertificates]
	if *dir == (pe.DataDirectory{}) {
		return nil, size, nil
	}
	signer, start, err := authenticode.Read(r, size)
	if errors.Is(err, cas.ErrCorrupt) {
		err = fmt.Errorf("%w; if another program such as sbsign has signed it, make it again with --sb-key and --sb-cert of phase-image", err)
	}
	if err != nil {
		return nil, 0, err
	}
	*dir = pe.DataDirectory{}
	h.raw, err = h.encode()
	return signer, start, err
}

// compare refuses a file that differs from the one that joinUKI writes for the header h outside of the
// sections and of the stub, which has n sections and ends at end. It has size bytes, unsigned of them
// before its signature.
func (h *peHeader) compare(is *peHeader, r io.ReaderAt, size, unsigned, end int64, n int) error {
	want, err := h.encode()
	if err != nil {
		return err
	}
	if !bytes.Equal(want, is.raw) {
		return badPE("header differs from the one that phase-image writes for these sections")
	}
	for _, s := range h.table[n:] {
		if err := zeros(r, end, int64(s.PointerToRawData)); err != nil {
			return err
		}
		end = int64(s.PointerToRawData) + int64(s.VirtualSize)
	}
	if err := zeros(r, end, align(end, int64(h.opt.FileAlignment))); err != nil {
		return err
	}
	if want := align(end, int64(h.opt.FileAlignment)); unsigned != want {
		return badPE("%d bytes, want %d", unsigned, want)
	}
	sum, err := authenticode.Checksum(io.NewSectionReader(r, 0, size), h.checksumAt())
	if err == nil && h.opt.CheckSum != 0 && h.opt.CheckSum != sum {
		return badPE("checksum %#x, want %#x", h.opt.CheckSum, sum)
	}
	return err
}

// zeros refuses bytes between two offsets that are not zero. The offsets are less than 64 KiB apart.
func zeros(r io.ReaderAt, from, to int64) error {
	if to < from || to-from > 64<<10 {
		return badPE("sections at byte %d overlap, or are far apart", to)
	}
	pad := make([]byte, to-from)
	if err := readFull(r, pad, from); err != nil {
		return err
	}
	if !allZero(pad) {
		return badPE("padding at byte %d is not zero", from)
	}
	return nil
}

// sum returns the digest of the stub with this header, which ends at end. Its checksum is that of
// its linker, or none.
func (h *peHeader) sum(r io.ReaderAt, end int64) (string, error) {
	head, err := h.encode()
	if err != nil {
		return "", err
	}
	file := func() io.Reader {
		return io.MultiReader(bytes.NewReader(head), io.NewSectionReader(r, int64(len(head)), end-int64(len(head))))
	}
	if h.opt.CheckSum != 0 {
		if h.opt.CheckSum, err = authenticode.Checksum(file(), h.checksumAt()); err != nil {
			return "", err
		}
		if head, err = h.encode(); err != nil {
			return "", err
		}
	}
	return sumOf(file())
}

// readUKIFile reads a UKI as its stub does.
func (c *Contents) readUKIFile(_ context.Context, _ *Builder, f *os.File) error {
	c.Checks = []string{}
	return c.readUKI(f, c.Size)
}

func (c *Contents) readUKI(r io.ReaderAt, size int64) error {
	u, err := openUKI(r, size)
	if err != nil {
		return err
	}
	c.UKI, c.Arch, c.Loader = true, u.arch, u.stubSum
	if u.signer != nil {
		sum := sha256.Sum256(u.signer.Raw)
		c.Signer = &Signer{u.signer.Subject.String(), hex.EncodeToString(sum[:])}
		c.signing = &authenticode.Signer{Certificate: u.signer, Made: u.made}
	}
	kernel := u.sections[sectionKernel]
	if err := c.System.readKernel(kernel, kernel.Size()); err != nil {
		return fmt.Errorf("section %s: %w", sectionKernel, err)
	}
	initramfs := u.sections[sectionInitramfs]
	if err := c.readInitramfs(initramfs, initramfs.Size(), &c.System); err != nil {
		return fmt.Errorf("section %s: %w", sectionInitramfs, err)
	}
	return c.readUKITexts(u)
}

// readUKITexts reads the command line, and compares the version and os-release with what they are
// made of.
func (c *Contents) readUKITexts(u *ukiReader) error {
	text := func(name string) (string, error) {
		if u.sections[name].Size() > maxLoaderFile {
			return "", badLoader("section %s: more than %d bytes", name, maxLoaderFile)
		}
		data, err := io.ReadAll(u.sections[name])
		return string(data), err
	}
	cmdline, err := text(sectionCmdline)
	if err != nil {
		return err
	}
	if err := checkCmdline(cmdline); err != nil {
		return badLoader("section %s: %v", sectionCmdline, err)
	}
	mode := bootargs.Parse(cmdline).Mode
	if mode == "" {
		mode = modes.Default
	}
	seconds, err := strconv.ParseInt(c.BuildTime, 10, 64)
	if err != nil {
		return err
	}
	version, _, _ := strings.Cut(c.Kernel, " ")
	for name, want := range map[string]string{sectionUname: version, sectionRelease: osRelease(mode, time.Unix(seconds, 0))} {
		is, err := text(name)
		if err != nil {
			return err
		}
		if is != want {
			return badLoader("section %s: %.200q, want %.200q", name, is, want)
		}
	}
	c.Default, c.Entries = mode, []BootEntry{{Mode: mode, Boots: mode, Title: "Phase Boot, mode " + mode, Cmdline: cmdline}}
	if err := c.checkEntries(); err != nil {
		return fmt.Errorf("section %s: %w", sectionCmdline, err)
	}
	return nil
}
