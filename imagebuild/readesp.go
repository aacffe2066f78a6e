package imagebuild

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootfile"
)

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
	if err := c.readKernel(files[kernelPath], files[kernelPath].size, platforms[0].Arch); err != nil {
		return fmt.Errorf("%s: %w", kernelPath, err)
	}
	if err := c.readInitramfs(files[initramfsPath], files[initramfsPath].size); err != nil {
		return fmt.Errorf("%s: %w", initramfsPath, err)
	}
	if err := c.checkEntries(); err != nil {
		return err
	}
	c.identity, err = fatIdentity(files)
	return err
}

func (c *Contents) readKernel(r io.ReaderAt, size int64, arch string) (err error) {
	if err := bootfile.CheckKernel(r, size, arch); err != nil {
		return fmt.Errorf("%w: %w", err, cas.ErrCorrupt)
	}
	if c.Kernel, err = kernelVersion(r); err != nil {
		return err
	}
	c.KernelSum, err = sumOf(io.NewSectionReader(r, 0, size))
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
