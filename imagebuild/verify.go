package imagebuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"

	"github.com/phaseboot/phaseboot/cas"
)

// Bounds of what verify reads out of an image, in bytes.
const (
	maxESPFile   = 1 << 30
	maxUnpacked  = 2 << 30
	maxSmallFile = 1 << 20
)

// Contents is what an image was found to hold.
type Contents struct {
	Image     string      `json:"image"`
	Size      int64       `json:"size"`
	Disk      string      `json:"disk_guid"`
	Kernel    string      `json:"kernel"`
	Default   string      `json:"default_mode"`
	Entries   []BootEntry `json:"entries"`
	Initramfs int64       `json:"initramfs_size"`
	Role      string      `json:"role"`
	Channel   string      `json:"channel"`
	BuildTime string      `json:"build_time"`
	Root      rootKeys    `json:"root"`
	Checks    []string    `json:"checks"` // tools that found nothing wrong
}

// BootEntry is one line of the boot menu.
type BootEntry struct {
	Mode    string `json:"mode"`
	Title   string `json:"title"`
	Cmdline string `json:"cmdline"`
}

// Verify checks the filesystems of an image that WriteUSB made with the tools that know
// them best, and reads what is inside. Whatever is wrong is cas.ErrCorrupt.
func (b *Builder) Verify(ctx context.Context, image string) (*Contents, error) {
	defer b.progress.step("verify " + filepath.Base(image))()
	parts, err := readTable(image)
	if err != nil {
		return nil, err
	}
	tmp, clean, err := b.temp()
	if err != nil {
		return nil, err
	}
	defer clean()
	c := &Contents{Image: image, Size: parts.size, Disk: strings.ToLower(parts.guid)}
	esp := filepath.Join(tmp, "esp")
	if err := extract(image, parts.esp, esp); err != nil {
		return nil, err
	}
	if c.Checks, err = judge(ctx, image, esp, parts.cache); err != nil {
		return nil, err
	}
	return c, c.readESP(ctx, esp, tmp)
}

type span struct{ start, size int64 }

type table struct {
	guid       string
	size       int64
	esp, cache span
}

// readTable finds the two partitions.
func readTable(image string) (*table, error) {
	f, err := os.Open(image)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	read, err := gpt.Read(f, sector, sector)
	if err != nil {
		return nil, fmt.Errorf("image %s: no partition table: %w: %w", image, err, cas.ErrCorrupt)
	}
	t := &table{guid: read.GUID, size: info.Size()}
	for _, p := range read.Partitions {
		s := span{int64(p.Start) * sector, int64(p.GetSize())}
		if s.start < 0 || s.size <= 0 || s.start > t.size-s.size {
			continue
		}
		switch {
		case p.Type == gpt.EFISystemPartition:
			t.esp = s
		case p.Name == CacheLabel:
			t.cache = s
		}
	}
	if t.esp.size == 0 || t.cache.size == 0 {
		return nil, fmt.Errorf("image %s: no EFI system partition and %s partition inside the image; truncated, or not made by phase-image usb: %w", image, CacheLabel, cas.ErrCorrupt)
	}
	return t, nil
}

func extract(image string, s span, to string) error {
	if err := os.WriteFile(to, nil, 0o600); err != nil {
		return noSpace(err)
	}
	if err := os.Truncate(to, s.size); err != nil {
		return noSpace(err)
	}
	return copySparse(to, 0, image, s.start, s.size)
}

// judge runs the checkers of each format. A tool's refusal is corruption of the image, a
// missing tool is not.
func judge(ctx context.Context, image, esp string, cache span) ([]string, error) {
	checks := []*tool{
		command("sgdisk", "-v", image),
		command("fsck.fat", "-n", esp),
		command("e2fsck", "-f", "-n", fmt.Sprintf("%s?offset=%d", image, cache.start)),
	}
	var passed []string
	for _, check := range checks {
		out, err := check.output(ctx)
		var bad *toolError
		if errors.As(err, &bad) || err == nil && check.name == "sgdisk" && !soundTable(out) {
			var said tail
			said.Write(out)
			return nil, fmt.Errorf("image %s: %s: %s: %w", image, check.name, said.words(), cas.ErrCorrupt)
		}
		if err != nil {
			return nil, err
		}
		passed = append(passed, check.name)
	}
	return passed, nil
}

// soundTable reads what sgdisk -v says: it ends well even when it had to mend the table.
func soundTable(out []byte) bool {
	return bytes.Contains(out, []byte("No problems found")) && !bytes.Contains(out, []byte("Caution"))
}

// readESP reads the menu, the kernel and the initramfs.
func (c *Contents) readESP(ctx context.Context, esp, tmp string) error {
	get := func(name string, limit int64) (string, error) {
		local := filepath.Join(tmp, strings.ReplaceAll(name, "/", "_"))
		err := command("mcopy", "-n", "-i", esp, "::/"+name, local).with("MTOOLSRC=/dev/null").run(ctx)
		var bad *toolError
		if errors.As(err, &bad) {
			return "", fmt.Errorf("image: %s: %w: %w", name, err, cas.ErrCorrupt)
		}
		if info, statErr := os.Stat(local); err == nil && (statErr != nil || info.Size() > limit) {
			return "", fmt.Errorf("image: %s: more than %d bytes: %w", name, limit, cas.ErrCorrupt)
		}
		return local, err
	}
	if err := c.readMenu(ctx, esp, get); err != nil {
		return err
	}
	kernel, err := get("phase/vmlinuz", maxESPFile)
	if err != nil {
		return err
	}
	f, err := os.Open(kernel)
	if err != nil {
		return err
	}
	defer f.Close()
	if c.Kernel, err = bannerOf(f); err != nil {
		return fmt.Errorf("image: phase/vmlinuz: %w", err)
	}
	initramfs, err := get("phase/initramfs.zst", maxESPFile)
	if err != nil {
		return err
	}
	return c.readInitramfs(initramfs)
}

func (c *Contents) readMenu(ctx context.Context, esp string, get func(string, int64) (string, error)) error {
	fields := func(name string) (map[string]string, error) {
		local, err := get(name, maxSmallFile)
		if err != nil {
			return nil, err
		}
		text, err := os.ReadFile(local)
		return loaderFields(string(text)), err
	}
	loader, err := fields("loader/loader.conf")
	if err != nil {
		return err
	}
	c.Default = strings.TrimSuffix(loader["default"], ".conf")
	out, err := command("mdir", "-b", "-i", esp, "::/loader/entries").with("MTOOLSRC=/dev/null").output(ctx)
	if err != nil {
		return fmt.Errorf("image: loader/entries: %w: %w", err, cas.ErrCorrupt)
	}
	for _, line := range strings.Fields(string(out)) {
		mode, isEntry := strings.CutSuffix(filepath.Base(line), ".conf")
		if !isEntry {
			continue
		}
		entry, err := fields("loader/entries/" + mode + ".conf")
		if err != nil {
			return err
		}
		c.Entries = append(c.Entries, BootEntry{mode, entry["title"], entry["options"]})
	}
	if !slices.ContainsFunc(c.Entries, func(e BootEntry) bool { return e.Mode == c.Default }) {
		return fmt.Errorf("image: loader/loader.conf: default %.40q has no entry: %w", c.Default, cas.ErrCorrupt)
	}
	return nil
}

// loaderFields reads the "key value" lines of a loader file (UAPI.1 boot loader
// specification).
func loaderFields(text string) map[string]string {
	fields := map[string]string{}
	for _, line := range strings.Split(text, "\n") {
		if key, value, found := strings.Cut(strings.TrimSpace(line), " "); found && key[0] != '#' {
			fields[key] = strings.TrimSpace(value)
		}
	}
	return fields
}

// readInitramfs reads /etc/phase out of an initramfs.
func (c *Contents) readInitramfs(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	c.Initramfs = info.Size()
	settings, err := readSettings(f)
	if err != nil {
		return fmt.Errorf("image: phase/initramfs.zst: %w: %w", err, cas.ErrCorrupt)
	}
	c.Role, c.Channel, c.BuildTime = settings["role"], settings["channel"], settings["build-time"]
	c.Root, err = describeRoot([]byte(settings["root.json"]))
	return err
}

// readSettings returns the files of /etc/phase, whole but for the last line's end.
func readSettings(r io.Reader) (map[string]string, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(128<<20), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	data, err := io.ReadAll(io.LimitReader(z, maxUnpacked))
	if err != nil {
		return nil, err
	}
	records := cpio.EOFReader{RecordReader: cpio.Newc.Reader(bytes.NewReader(data))}
	settings := map[string]string{}
	for {
		record, err := records.ReadRecord()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		name, ours := strings.CutPrefix(record.Name, "etc/phase/")
		if !ours || record.FileSize > maxSmallFile {
			continue
		}
		text, err := io.ReadAll(io.NewSectionReader(record, 0, int64(record.FileSize)))
		if err != nil {
			return nil, err
		}
		settings[name] = strings.TrimSuffix(string(text), "\n")
	}
	if settings["role"] == "" {
		return nil, fmt.Errorf("etc/phase/role: %w", fs.ErrNotExist)
	}
	return settings, nil
}
