package imagebuild

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootfile"
)

// entryOf returns the architecture and the mode of a boot entry by the path of its file. Those of renewed boot sets
// are no such entries.
func entryOf(name string) (a architecture, mode string, ok bool) {
	n, ok := renewedEntry(name)
	if !ok || n.Number != 0 {
		return a, "", false
	}
	i := slices.IndexFunc(architectures, func(a architecture) bool { return a.Arch == n.Arch })
	if i < 0 {
		return a, "", false
	}
	return architectures[i], n.Mode, true
}

// systemPaths returns the paths of loader, kernel and initramfs in lower case.
func (a architecture) systemPaths() []string {
	return []string{strings.ToLower(a.loaderPath()), a.kernelPath(), a.initramfsPath()}
}

// readESP reads the files of an espTree and refuses any other file.
func (c *Contents) readESP(r io.ReaderAt, size int64) error {
	f, err := openFAT(r, size)
	if err != nil {
		return err
	}
	dirs, names := []string{"efi", "efi/boot", "loader", entriesPath}, []string{menuPath}
	for _, a := range architectures {
		dirs, names = append(dirs, a.folder), append(names, a.systemPaths()...)
	}
	menu := func(architecture) string { return menuPath }
	grub := f.has(grubFolder)
	if grub {
		dirs, names = grubPaths()
		menu = architecture.grubMenuPath
	}
	signed := !f.has("phase")
	if signed {
		dirs, names = []string{"efi", "efi/boot"}, nil
		for _, a := range architectures {
			names = append(names, a.systemPaths()[0])
		}
	}
	files, err := f.bootFiles(dirs, names)
	if err != nil {
		return err
	}
	files, renewed := splitRenewed(files)
	if len(renewed) > 0 && (grub || signed) {
		return badFAT("a renewed boot set without systemd-boot")
	}
	if c.identity, err = fatIdentity(files); err != nil {
		return err
	}
	if signed {
		return c.readSignedESP(files)
	}
	archs, err := archsOf(files, menu)
	if err != nil {
		return err
	}
	if grub {
		err = c.readGRUBOnly(archs, files)
	} else {
		c.Bootloader = LoaderSystemd
		err = c.readMenu(archs, files)
	}
	if err != nil {
		return err
	}
	for i, a := range archs {
		s := System{Arch: a.Arch}
		if err := c.readSystem(a, files, &s); err != nil {
			return err
		}
		if i == 0 {
			c.System = s
		} else {
			c.Others = append(c.Others, s)
		}
	}
	if err := c.checkEntries(); err != nil {
		return err
	}
	return c.readRenewed(files, renewed)
}

// readSignedESP reads a UKI, which is signed and the only file of its partition.
func (c *Contents) readSignedESP(files map[string]*fatFile) error {
	if len(files) != 1 {
		return badFAT("%d programs that firmware could start and no folder phase, want one signed UKI", len(files))
	}
	for _, a := range architectures {
		name := a.systemPaths()[0]
		program := files[name]
		if program == nil {
			continue
		}
		if err := c.readUKI(program, program.size); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if c.Signer == nil || c.Arch != a.Arch {
			return badFAT("%s: a UKI without a signature or for another architecture, which phase-image does not write there", name)
		}
	}
	return nil
}

// has reports whether the root folder has an entry of this name.
func (f *fat) has(name string) bool {
	entries, err := f.readDir("", 2, 0)
	f.used = make([]bool, len(f.used)) // it is read again
	return err == nil && slices.ContainsFunc(entries, func(e fatEntry) bool { return strings.EqualFold(e.name, name) })
}

// bootFiles reads a partition that has no other files than those named and entries of the boot menu in entriesPath.
func (f *fat) bootFiles(dirs, names []string) (map[string]*fatFile, error) {
	return f.files(dirs, func(name string) bool {
		_, _, isEntry := entryOf(name)
		return isEntry || slices.Contains(names, name) || isRenewed(name)
	})
}

// readGRUBOnly reads GRUB's menu.
func (c *Contents) readGRUBOnly(archs []architecture, files map[string]*fatFile) error {
	menus, err := readGRUBMenus(archs, files)
	c.Bootloader, c.Default, c.Entries = LoaderGRUB, menus.mode, menus.entries
	return err
}

// archsOf returns the architectures that a partition boots. It refuses a partition with a part of
// what an architecture needs, or without its menu.
func archsOf(files map[string]*fatFile, menu func(architecture) string) (archs []architecture, err error) {
	for _, a := range architectures {
		missing := slices.DeleteFunc(a.systemPaths(), func(name string) bool { return files[name] != nil && files[name].size > 0 })
		present := slices.DeleteFunc(a.systemPaths(), func(name string) bool { return files[name] == nil })
		if len(present) == 0 {
			continue
		}
		if len(missing) > 0 {
			return nil, badFAT("no %s", missing[0])
		}
		if m := files[menu(a)]; m == nil || m.size == 0 {
			return nil, badFAT("no %s", menu(a))
		}
		archs = append(archs, a)
	}
	if len(archs) == 0 {
		return nil, badFAT("no loader")
	}
	return archs, nil
}

// readSystem reads what machines of one architecture boot.
func (c *Contents) readSystem(a architecture, files map[string]*fatFile, s *System) (err error) {
	if s.Loader, err = sumOf(files[strings.ToLower(a.loaderPath())].reader()); err != nil {
		return err
	}
	if err := s.readKernel(files[a.kernelPath()], files[a.kernelPath()].size); err != nil {
		return fmt.Errorf("%s: %w", a.kernelPath(), err)
	}
	initramfs := files[a.initramfsPath()]
	if err := c.readInitramfs(initramfs, initramfs.size, s); err != nil {
		return fmt.Errorf("%s: %w", a.initramfsPath(), err)
	}
	return nil
}

func (s *System) readKernel(r io.ReaderAt, size int64) (err error) {
	if err := bootfile.CheckKernel(r, size, s.Arch); err != nil {
		return fmt.Errorf("%w: %w", err, cas.ErrCorrupt)
	}
	if s.Kernel, err = kernelVersion(r, size, s.Arch); err != nil {
		return err
	}
	s.KernelSum, err = sumOf(io.NewSectionReader(r, 0, size))
	return err
}

func (c *Contents) readMenu(archs []architecture, files map[string]*fatFile) error {
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
		a, mode, ok := entryOf(name)
		if !ok {
			continue
		}
		entry, err := text(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		e, err := readBootEntry(a, mode, entry)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		c.Entries = append(c.Entries, e)
	}
	slices.SortFunc(c.Entries, func(a, b BootEntry) int { return cmp.Or(-cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.Mode, b.Mode)) })
	for _, e := range c.Entries {
		if !slices.ContainsFunc(archs, func(a architecture) bool { return a.Arch == e.Arch }) {
			return badLoader("entry %.40q: there is no loader for %s", e.Mode, e.Arch)
		}
	}
	for _, a := range archs {
		if !slices.ContainsFunc(c.Entries, func(e BootEntry) bool { return e.Mode == c.Default && e.Arch == a.Arch }) {
			return badLoader("%s: default %.40q has no entry for %s", menuPath, c.Default, a.Arch)
		}
	}
	return nil
}
