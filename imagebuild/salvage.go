package imagebuild

import (
	"cmp"
	"encoding/binary"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/modes"
)

// salvage reads from an image that Verify refuses what a rebuild needs, so that the rebuild can name the part
// that differs. It returns nil if that cannot be read. Nothing that it reads is shown or trusted.
func (b *Builder) salvage(image string) *Contents {
	path, _ := imageFile(image)
	f, size, err := openImage(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	c := &Contents{Image: image, Size: size}
	if _, err := c.detectKind(f); err != nil || !c.salvageKind(f) || c.settings == nil || c.root == nil && c.Role == RoleBoot {
		return nil
	}
	return c
}

func (c *Contents) salvageKind(f *os.File) bool {
	whole := blob{f, c.Size}
	switch c.Kind {
	case KindInitramfs:
		return c.salvageInitramfs(whole, &c.System)
	case KindUKI:
		return c.salvageUKI(whole)
	case KindESP:
		return c.salvageESP(whole)
	case KindDisk, KindISO:
		esp := espAt(whole, firstPartition)
		if esp.size == 0 || !c.salvageESP(whole.at(esp)) {
			return false
		}
		second := espAt(whole, esp.start+esp.size)
		if c.Kind == KindDisk && second.size > 0 && c.Bootloader == LoaderSystemd {
			c.Bootloader = LoaderBoth
		}
		return true
	}
	return false
}

// espAt returns the EFI system partition that begins at an offset, by its boot sector. It has whole MiB.
func espAt(b blob, at int64) span {
	boot := make([]byte, sector)
	if err := readAll(b.r, boot, at); err != nil || !isFAT32(boot) {
		return span{}
	}
	size := align(int64(binary.LittleEndian.Uint32(boot[32:]))*sector, mib)
	if at+size > b.size {
		return span{}
	}
	return span{at, size}
}

// salvageInitramfs takes the settings that can be read before a fault.
func (c *Contents) salvageInitramfs(b blob, s *System) bool {
	z, err := openFrame(b.r, b.size)
	if err != nil {
		return false
	}
	defer z.Close()
	is := newSettings()
	_ = readArchive(z, is.visit) // up to the first fault
	return is.files["role"] != nil && c.takeSettings(is, s) == nil
}

func (c *Contents) salvageESP(b blob) bool {
	files, err := allFiles(b)
	if err != nil {
		return false
	}
	var archs []architecture
	for _, a := range architectures {
		f := files[a.initramfsPath()]
		if f == nil {
			continue
		}
		s := System{Arch: a.Arch}
		if !c.salvageInitramfs(f.blob(), &s) {
			return false
		}
		if archs = append(archs, a); len(archs) == 1 {
			c.System = s
		} else {
			c.Others = append(c.Others, s)
		}
	}
	if len(archs) == 0 { // a signed UKI
		names := slices.Sorted(maps.Keys(files))
		return len(names) == 1 && c.salvageUKI(files[names[0]].blob())
	}
	c.salvageMenu(archs, files)
	c.mayBeRenewed = slices.ContainsFunc(slices.Collect(maps.Keys(files)), isRenewed)
	return true
}

// salvageMenu takes the entries and the default mode that can be read.
func (c *Contents) salvageMenu(archs []architecture, files map[string]*fatFile) {
	if files[archs[0].grubMenuPath()] != nil {
		c.Bootloader = LoaderGRUB
		for _, a := range archs {
			if files[a.systemPaths()[0]] == nil || files[a.grubMenuPath()] == nil {
				continue
			}
			if menu, _, err := readGRUBFiles(a, files); err == nil {
				c.Default, c.Entries = menu.mode, append(c.Entries, menu.entries...)
			}
		}
		return
	}
	c.Bootloader = LoaderSystemd
	text := func(name string) string {
		f := files[name]
		if f == nil || f.size > maxLoaderFile {
			return ""
		}
		data, _ := io.ReadAll(f.reader())
		return string(data)
	}
	c.Default, _ = readMenu(text(menuPath))
	for name := range files {
		a, mode, ok := entryOf(name)
		if !ok {
			continue
		}
		if e, err := readBootEntry(a, mode, text(name)); err == nil {
			c.Entries = append(c.Entries, e)
		}
	}
	slices.SortFunc(c.Entries, func(a, b BootEntry) int { return cmp.Compare(a.Mode, b.Mode) })
}

func (c *Contents) salvageUKI(b blob) bool {
	sections := sectionsOf(b)
	initramfs, cmdline := sections[sectionInitramfs], sections[sectionCmdline]
	if initramfs.r == nil || cmdline.r == nil || cmdline.size > maxLoaderFile {
		return false
	}
	c.UKI = true
	if !c.salvageInitramfs(initramfs, &c.System) {
		return false
	}
	text, err := io.ReadAll(io.NewSectionReader(cmdline.r, 0, cmdline.size))
	if err != nil || checkCmdline(string(text)) != nil {
		return err == nil
	}
	mode := cmp.Or(bootargs.Parse(string(text)).Mode, modes.Default)
	c.Default, c.Entries = mode, []BootEntry{{Mode: mode, Boots: mode, Title: "Phase Boot, mode " + mode, Cmdline: strings.TrimSpace(string(text))}}
	return true
}
