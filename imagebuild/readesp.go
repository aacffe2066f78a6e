package imagebuild

import (
	"cmp"
	"fmt"
	"io"
	"path"
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
	dirs, names := []string{"efi", "efi/boot", "loader", entriesPath, "phase"}, []string{firmwarePath(), menuPath, kernelPath, initramfsPath}
	read := c.readSystemd
	if f.has(path.Dir(grubConfigPath)) {
		read = c.readGRUBOnly
		dirs, names = grubFiles()
	}
	signed := !f.has(path.Dir(kernelPath))
	if signed {
		dirs, names = []string{"efi", "efi/boot"}, []string{firmwarePath()}
	}
	files, err := f.requireFiles(dirs, names)
	if err != nil {
		return err
	}
	if c.identity, err = fatIdentity(files); err != nil {
		return err
	}
	if signed {
		return c.readSignedESP(files[firmwarePath()])
	}
	if err := read(files); err != nil {
		return err
	}
	if err := c.readKernel(files[kernelPath], files[kernelPath].size, platforms[0].Arch); err != nil {
		return fmt.Errorf("%s: %w", kernelPath, err)
	}
	if err := c.readInitramfs(files[initramfsPath], files[initramfsPath].size); err != nil {
		return fmt.Errorf("%s: %w", initramfsPath, err)
	}
	return c.checkEntries()
}

// readSignedESP reads a UKI, which is signed and the only file of its partition.
func (c *Contents) readSignedESP(program *fatFile) error {
	if err := c.readUKI(program, program.size); err != nil {
		return fmt.Errorf("%s: %w", firmwarePath(), err)
	}
	if c.Signer == nil {
		return badFAT("%s: a UKI without a signature, which phase-image does not write there", firmwarePath())
	}
	return nil
}

// firmwarePath is the path of the file that firmware starts.
func firmwarePath() string { return "efi/boot/" + strings.ToLower(platforms[0].efiName) }

// has reports whether the root folder has an entry of this name.
func (f *fat) has(name string) bool {
	entries, err := f.readDir("", 2, 0)
	f.used = make([]bool, len(f.used)) // it is read again
	return err == nil && slices.ContainsFunc(entries, func(e fatEntry) bool { return strings.EqualFold(e.name, name) })
}

// requireFiles reads a partition that has the named files, none of them empty, and no others except entries of the
// boot menu in entriesPath.
func (f *fat) requireFiles(dirs, names []string) (map[string]*fatFile, error) {
	files, err := f.files(dirs, func(name string) bool { return entryPath.MatchString(name) || slices.Contains(names, name) })
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if files[name] == nil || files[name].size == 0 {
			return nil, badFAT("no %s", name)
		}
	}
	return files, nil
}

// readSystemd reads systemd-boot and its menu.
func (c *Contents) readSystemd(files map[string]*fatFile) (err error) {
	if err := c.readMenu(files); err != nil {
		return err
	}
	c.Bootloader = LoaderSystemd
	c.Loader, err = sumOf(files[firmwarePath()].reader())
	return err
}

// readGRUBOnly reads GRUB and its menu.
func (c *Contents) readGRUBOnly(files map[string]*fatFile) error {
	menu, sum, err := readGRUBFiles(files)
	if err != nil {
		return err
	}
	c.Bootloader, c.Loader, c.Default, c.Entries = LoaderGRUB, sum, menu.mode, menu.entries
	slices.SortFunc(c.Entries, func(a, b BootEntry) int { return cmp.Compare(a.Mode, b.Mode) })
	return nil
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
