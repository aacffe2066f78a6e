package imagebuild

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
)

// maxSetting bounds a file of /etc/phase in an initramfs, in bytes.
const maxSetting = 1 << 20

// Kinds of images that Verify reads.
const (
	KindDisk      = "disk"      // made by WriteUSB, or a device that such an image was written to
	KindESP       = "esp"       // made by WriteESP
	KindInitramfs = "initramfs" // made by WriteInitramfs
)

// Contents is the content of an image as Verify found it. Digests are SHA-256 in hex.
type Contents struct {
	Image         string      `json:"image"`
	Kind          string      `json:"kind"`
	Size          int64       `json:"size"`         // of the image in bytes
	TrailingBytes int64       `json:"bytes_behind"` // bytes of the device after the image; firmware does not read them
	SHA256        string      `json:"sha256"`       // of the image
	Disk          string      `json:"disk_guid,omitempty"`
	Loader        string      `json:"loader_sha256,omitempty"`
	Kernel        string      `json:"kernel,omitempty"`
	KernelSum     string      `json:"kernel_sha256,omitempty"`
	Default       string      `json:"default_mode,omitempty"`
	Entries       []BootEntry `json:"entries,omitempty"`
	Initramfs     int64       `json:"initramfs_size"`
	ArchiveSum    string      `json:"initramfs_sha256"`
	Init          string      `json:"init_sha256"` // of /init, which is phase-boot
	Modules       string      `json:"modules"`     // version of the kernel to which the modules belong
	Role          string      `json:"role"`
	Channel       string      `json:"channel,omitempty"`
	BuildTime     string      `json:"build_time"`
	RootSum       string      `json:"root_sha256,omitempty"` // of root.json
	Root          *RootKeys   `json:"root,omitempty"`
	Checks        []string    `json:"checks"`             // tools that found no error
	Compared      string      `json:"compared,omitempty"` // comparisons that found no difference
	NotCompared   []string    `json:"not_compared"`       // parts that were not compared, one text each

	root  []byte
	cache span
}

// Verify reads an image as firmware, loader and kernel do, and refuses everything that
// phase-image would not write, because one of them could interpret it in another way. Then
// sgdisk, fsck.fat and e2fsck check the partition table and the filesystems. It accepts
// images of WriteUSB, WriteESP and WriteInitramfs, and a device that an image was written
// to. A fault of the image is cas.ErrCorrupt.
//
// It reads a stream: memory does not grow with the image or with the sizes in it.
func (b *Builder) Verify(ctx context.Context, image string) (*Contents, error) {
	defer b.progress.step("verify " + filepath.Base(image))()
	f, size, err := openImage(image)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c := &Contents{Image: image, Size: size}
	read, err := c.detectKind(f)
	if err == nil {
		err = read(ctx, b, f)
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", image, err)
	}
	c.NotCompared = c.notCompared()
	c.SHA256, err = sumRange(ctx, f, 0, c.Size)
	return c, err
}

// notCompared returns a text for each part of the image that was not compared yet.
func (c *Contents) notCompared() []string {
	words := []string{}
	if c.Root != nil && !c.wasCompared(comparedRoot) {
		words = append(words, "root.json: only its keys are shown; --root compares it")
	}
	if !c.wasCompared(comparedRebuild) {
		programs := "loader, kernel, init, modules"
		if c.Kind == KindInitramfs {
			programs = "init, modules"
		}
		words = append(words, programs+": not compared with their packages; --rebuild compares them")
	}
	if c.cache.size > 0 {
		words = append(words, "cache partition: only its filesystem was checked; a machine verifies the files that it reads there")
	}
	return words
}

// Values in Contents.Compared.
const (
	comparedRoot    = "root.json"
	comparedRebuild = "rebuild"
)

// wasCompared reports whether the image was compared with what.
func (c *Contents) wasCompared(what string) bool {
	return slices.Contains(strings.Split(c.Compared, ", "), what)
}

// compared records that the image is equal to what.
func (c *Contents) compared(what string) {
	c.Compared = strings.TrimPrefix(c.Compared+", "+what, ", ")
	c.NotCompared = c.notCompared()
}

// openImage opens a regular file or a block device, and returns its size in bytes.
func openImage(name string) (*os.File, int64, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // opening a pipe would block
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("image %s: %w; check the path", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("image: %w", err)
	}
	size, err := sizeOf(f)
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("image %s: %w", name, err)
	}
	return f, size, nil
}

// sizeOf returns the size of a regular file or a block device in bytes.
func sizeOf(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	mode := info.Mode()
	switch {
	case mode.IsDir():
		return 0, optionsf("is a directory; name a file")
	case !mode.IsRegular() && (mode&fs.ModeDevice == 0 || mode&fs.ModeCharDevice != 0):
		return 0, optionsf("neither a regular file nor a block device; name a file")
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil && size == 0 {
		err = fmt.Errorf("the file is empty; make it again: %w", cas.ErrCorrupt)
	}
	return size, err
}

// detectKind detects the kind of the image from its first bytes and returns its reader.
func (c *Contents) detectKind(r io.ReaderAt) (func(context.Context, *Builder, *os.File) error, error) {
	head := make([]byte, 2*sector)
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		if looksLikeDisk(head) || looksLikeCD(r) {
			return nil, badArchive("firmware would read it as a disk and could boot something else")
		}
		c.Kind = KindInitramfs
		return c.readInitramfsFile, nil
	case isFAT32(head):
		c.Kind = KindESP
		return c.readESPFile, nil
	}
	c.Kind = KindDisk
	return c.readDisk, nil
}

// looksLikeDisk reports whether firmware would find a partition table or a FAT filesystem in the
// first two sectors, although the file begins as another kind.
func looksLikeDisk(head []byte) bool {
	u16, u32 := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32
	table, partitions := u16(head[510:]) == 0xaa55, 0
	for b := head[446:510]; len(b) > 0; b = b[16:] {
		switch {
		case b[4] == 0 && allZero(b):
		case b[0]&0x7f == 0 && b[4] != 0 && u32(b[12:]) != 0:
			partitions++
		default:
			table = false
		}
	}
	fat := (u16(head[11:]) == sector || u16(head[11:]) == 8*sector) && head[13]&(head[13]-1) == 0 && u16(head[14:]) != 0 &&
		(head[16] == 1 || head[16] == 2) && (head[21] == 0xf0 || head[21] > 0xf7)
	return table && partitions > 0 || fat
}

// looksLikeCD reports whether firmware would find a volume descriptor of a CD (ECMA-119).
func looksLikeCD(r io.ReaderAt) bool {
	const at, magic = 16*2048 + 1, "CD001"
	b := make([]byte, len(magic))
	_, err := r.ReadAt(b, at)
	return err == nil && string(b) == magic
}

func (c *Contents) readInitramfsFile(_ context.Context, _ *Builder, f *os.File) error {
	c.Checks = []string{}
	return c.readInitramfs(f, c.Size)
}

func (c *Contents) readESPFile(ctx context.Context, b *Builder, f *os.File) error {
	if err := c.readESP(f, c.Size); err != nil {
		return err
	}
	return c.runCheckers(ctx, command("fsck.fat", "-n", c.Image))
}

func (c *Contents) readDisk(ctx context.Context, b *Builder, f *os.File) error {
	t, err := readTable(f, c.Size)
	if err != nil {
		return err
	}
	c.Size, c.TrailingBytes, c.Disk, c.cache = t.size, c.Size-t.size, t.guid, t.cache
	if err := c.readESP(io.NewSectionReader(f, t.esp.start, t.esp.size), t.esp.size); err != nil {
		return err
	}
	tmp, clean, err := b.tempDir()
	if err != nil {
		return err
	}
	defer clean()
	table, esp := filepath.Join(tmp, "table"), filepath.Join(tmp, "esp")
	if err := errors.Join(extract(esp, t.esp.size, c.Image, t.esp), extract(table, t.size, c.Image, span{0, firstPartition}, span{t.cache.start + t.cache.size, t.size - t.cache.start - t.cache.size})); err != nil {
		return err
	}
	return c.runCheckers(ctx, command("sgdisk", "-v", table), command("fsck.fat", "-n", esp),
		command("e2fsck", "-f", "-n", fmt.Sprintf("%s?offset=%d", c.Image, t.cache.start)))
}

// extract makes a sparse file of size bytes with parts of an image. A single part is moved to
// the start of the file; several parts keep their offsets.
func extract(to string, size int64, image string, parts ...span) error {
	if err := errors.Join(os.WriteFile(to, nil, 0o600), os.Truncate(to, size)); err != nil {
		return file.FullDisk(err)
	}
	for _, s := range parts {
		at := s.start
		if len(parts) == 1 {
			at = 0
		}
		if err := copySparse(to, at, image, s.start, s.size); err != nil {
			return err
		}
	}
	return nil
}

// runCheckers runs the tools that check a format. If a tool finds an error, the image is
// cas.ErrCorrupt. The tool's output is quoted, because it may contain text of the image.
func (c *Contents) runCheckers(ctx context.Context, checks ...*tool) error {
	for _, check := range checks {
		output := new(outputTail)
		check.stdout = output
		err := check.limited().run(ctx)
		var bad *toolError
		if errors.As(err, &bad) || err == nil && check.name == "sgdisk" && !tableIntact(output.buf) {
			return fmt.Errorf("%s: %.300q: %w", check.name, output.lastLines(), cas.ErrCorrupt)
		}
		if err != nil {
			return err
		}
		c.Checks = append(c.Checks, check.name)
	}
	return nil
}

// tableIntact reads the output of sgdisk -v, which also exits 0 after it repaired the table in
// memory.
func tableIntact(out []byte) bool {
	return bytes.Contains(out, []byte("No problems found")) && !bytes.Contains(out, []byte("Caution"))
}

var entryPath = regexp.MustCompile(`^loader/entries/([a-z0-9-]{1,32})\.conf$`)

// readESP reads the files of an espTree and refuses any other file.
func (c *Contents) readESP(r io.ReaderAt, size int64) error {
	f, err := openFAT(r, size)
	if err != nil {
		return err
	}
	loader := "efi/boot/" + strings.ToLower(platforms[0].efiName)
	files, err := f.files([]string{"efi", "efi/boot", "loader", entriesPath, "phase"}, func(name string) bool {
		return entryPath.MatchString(name) || slices.Contains([]string{loader, menuPath, kernelPath, initramfsPath}, name)
	})
	if err != nil {
		return err
	}
	for _, name := range []string{loader, menuPath, kernelPath, initramfsPath} {
		if files[name] == nil || files[name].size == 0 {
			return badFAT("no %s", name)
		}
	}
	if err := c.readMenu(files); err != nil {
		return err
	}
	if c.Loader, err = sumOf(files[loader].reader()); err != nil {
		return err
	}
	if err := c.readKernel(files[kernelPath]); err != nil {
		return fmt.Errorf("%s: %w", kernelPath, err)
	}
	err = c.readInitramfs(files[initramfsPath], files[initramfsPath].size)
	if err != nil {
		err = fmt.Errorf("%s: %w", initramfsPath, err)
	}
	return err
}

func (c *Contents) readKernel(f *fatFile) (err error) {
	if err := bootfile.CheckKernel(f, f.size, platforms[0].Arch); err != nil {
		return fmt.Errorf("%w: %w", err, cas.ErrCorrupt)
	}
	if c.Kernel, err = kernelVersion(f); err != nil {
		return err
	}
	c.KernelSum, err = sumOf(f.reader())
	return err
}

func (c *Contents) readMenu(files map[string]*fatFile) error {
	text := func(name string) (string, error) {
		if files[name].size > maxLoaderFile {
			return "", badLoader("more than %d bytes", maxLoaderFile)
		}
		data, err := io.ReadAll(files[name].reader())
		return string(data), err
	}
	menu, err := text(menuPath)
	if err == nil {
		c.Default, err = readMenu(menu)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", menuPath, err)
	}
	for name := range files {
		m := entryPath.FindStringSubmatch(name)
		if m == nil {
			continue
		}
		entry, err := text(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		e, err := readBootEntry(m[1], entry)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		c.Entries = append(c.Entries, e)
	}
	slices.SortFunc(c.Entries, func(a, b BootEntry) int { return cmp.Compare(a.Mode, b.Mode) })
	if !slices.ContainsFunc(c.Entries, func(e BootEntry) bool { return e.Mode == c.Default }) {
		return badLoader("%s: default %.40q has no entry", menuPath, c.Default)
	}
	return nil
}

// readInitramfs reads /etc/phase, and computes the digests of the archive and of /init.
func (c *Contents) readInitramfs(r io.ReaderAt, size int64) error {
	c.Initramfs = size
	settings, err := readSettings(r, size)
	if err != nil {
		return err
	}
	c.Role, c.Channel, c.BuildTime = settings.text("role"), settings.text("channel"), settings.text("build-time")
	c.Init, c.Modules, c.root = settings.init, settings.modules, settings.files["root.json"]
	if err := c.checkSettings(); err != nil {
		return err
	}
	c.ArchiveSum, err = sumOf(io.NewSectionReader(r, 0, size))
	return err
}

func (c *Contents) checkSettings() error {
	if _, err := strconv.ParseUint(c.BuildTime, 10, 33); err != nil {
		return badArchive("etc/phase/build-time %.40q: not a number of seconds since 1970", c.BuildTime)
	}
	switch {
	case c.Role == RoleTarget && c.Kind == KindInitramfs && c.root == nil && c.Channel == "":
		return nil
	case c.Role != RoleBoot:
		return badArchive("etc/phase/role %.40q: not the role of a boot medium", c.Role)
	}
	if _, err := manifest.RoleName(c.Channel, "x86"); err != nil {
		return badArchive("etc/phase/channel %.40q: invalid channel name", c.Channel)
	}
	root, err := describeRoot(c.root)
	sum := sha256.Sum256(c.root)
	c.Root, c.RootSum = &root, hex.EncodeToString(sum[:])
	return err
}

// settings is the part of an initramfs that Verify reads.
type settings struct {
	files   map[string][]byte // of /etc/phase
	init    string            // digest of /init
	modules string            // the one folder of /lib/modules
}

// text returns a setting without its final newline.
func (s *settings) text(name string) string {
	return strings.TrimSuffix(string(s.files[name]), "\n")
}

var settingNames = []string{"role", "build-time", "root.json", "channel", "modules"}

// readSettings reads an initramfs of size bytes: one zstd frame with one archive.
func readSettings(r io.ReaderAt, size int64) (*settings, error) {
	z, err := openFrame(r, size)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	s := &settings{files: map[string][]byte{}}
	if err := readArchive(z, s.visit); err != nil {
		return nil, err
	}
	if s.init == "" || s.files["role"] == nil {
		return nil, badArchive("no init or no etc/phase/role; not an initramfs that phase-image made")
	}
	return s, nil
}

func (s *settings) visit(c cpioRecord) (err error) {
	dir, name := path.Split(c.name)
	switch {
	case c.name == "init" || dir == "etc/phase/":
		if c.mode&modeType != modeFile {
			return badArchive("file %.80q: not a regular file", c.name)
		}
	case dir == "lib/modules/":
		if s.modules = name; c.mode&modeType != modeDir {
			return badArchive("file %.80q: not a folder", c.name)
		}
	case c.mode&modeType == modeLink && (c.name == "etc" || c.name == "etc/phase"):
		return badArchive("file %.80q: not a folder", c.name)
	}
	if c.name == "init" {
		s.init, err = sumOf(c.body)
	}
	if dir == "etc/phase/" {
		s.files[name], err = readSetting(c, name)
	}
	return err
}

func readSetting(c cpioRecord, name string) ([]byte, error) {
	if !slices.Contains(settingNames, name) || c.size > maxSetting {
		return nil, badArchive("file %.80q: not a setting of phase-boot, or larger than %d bytes", c.name, maxSetting)
	}
	return io.ReadAll(c.body)
}

func sumOf(r io.Reader) (string, error) {
	h := sha256.New()
	_, err := io.Copy(h, r)
	return hex.EncodeToString(h.Sum(nil)), err
}

// sumRange returns the digest of a range of a file. It stops when ctx ends.
func sumRange(ctx context.Context, r io.ReaderAt, start, size int64) (string, error) {
	h := sha256.New()
	for done := int64(0); done < size; {
		n, err := io.Copy(h, io.NewSectionReader(r, start+done, min(64*mib, size-done)))
		if err = cmp.Or(err, ctx.Err()); err != nil {
			return "", err
		}
		if n == 0 {
			return "", io.ErrUnexpectedEOF
		}
		done += n
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// CompareRoot refuses an image whose root.json differs from root. The error wraps
// manifest.ErrUntrusted.
func (c *Contents) CompareRoot(root []byte) error {
	if _, err := manifest.ParseRoot(root); err != nil {
		return err
	}
	if c.root == nil {
		return optionsf("image %s: an initramfs of the target role has no root.json to compare", c.Image)
	}
	if sum := sha256.Sum256(root); !bytes.Equal(root, c.root) {
		return fmt.Errorf("image %s: root.json has sha256 %s, want %x; do not boot it: %w", c.Image, c.RootSum, sum, manifest.ErrUntrusted)
	}
	c.compared(comparedRoot)
	return nil
}
