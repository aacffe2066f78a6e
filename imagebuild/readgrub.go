package imagebuild

import (
	"bytes"
	"debug/elf"
	"debug/pe"
	"encoding/binary"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/modes"
)

// Format of the modules in GRUB's program (include/grub/kernel.h).
const (
	maxGRUB        = 4 << 20 // bytes of the program
	grubMagic      = 0x676d696d
	grubInfoSize   = 24
	grubObjectSize = 8 // header of an object
	grubObjectELF  = 0
	grubObjectName = 3 // the prefix
)

// grubLinked are the modules that grub-mkimage adds to grubModules because they depend on them: those of x86_64 with
// GRUB 2.06, and others of arm64 and of GRUB 2.12.
var grubLinked = []string{
	"boot", "bufio", "crypto", "datetime", "extcmd", "fshelp", "gettext", "mmap", "net", "priority_queue", "relocator", "terminal", "video", "video_fb",
	"acpi", grubLoaderInfo, "fdt", "gzio", "smbios", "verifiers",
}

// readGRUB refuses a GRUB that reads its menu from another place than grubMenuPath, or brings other modules or a
// configuration of its own. The code of the modules is compared by a rebuild only.
func readGRUB(a architecture, r io.ReaderAt, size int64) error {
	bad := func(format string, args ...any) error { return badLoader("GRUB: "+format, args...) }
	if size > maxGRUB {
		return bad("more than %d bytes", maxGRUB)
	}
	data := make([]byte, size)
	if _, err := r.ReadAt(data, 0); err != nil && err != io.EOF {
		return err
	}
	program, err := pe.NewFile(bytes.NewReader(data))
	if err != nil || peArch(program.Machine) != a.Arch {
		return bad("not an EFI program for %s", a.Arch)
	}
	if program.PointerToSymbolTable != 0 { // it could give another section the name, for this reader but not for GRUB
		return bad("a symbol table, which grub-mkimage does not write")
	}
	section := program.Section("mods") // the first one, as GRUB does
	if section == nil {
		return bad("no modules in the program")
	}
	mods, err := section.Data()
	if err != nil || len(mods) < grubInfoSize || binary.LittleEndian.Uint32(mods) != grubMagic {
		return bad("no modules in the program")
	}
	at, end := binary.LittleEndian.Uint64(mods[8:]), binary.LittleEndian.Uint64(mods[16:])
	if at != grubInfoSize || end < at || end > uint64(len(mods)) || !allZero(mods[end:]) {
		return bad("modules: unexpected layout")
	}
	prefix := ""
	for objects := mods[at:end]; len(objects) > 0; {
		if len(objects) < grubObjectSize {
			return bad("modules: truncated")
		}
		kind, length := binary.LittleEndian.Uint32(objects), binary.LittleEndian.Uint32(objects[4:])
		if length < grubObjectSize || uint64(length) > uint64(len(objects)) {
			return bad("modules: truncated")
		}
		body := objects[grubObjectSize:length]
		objects = objects[length:]
		switch {
		case kind == grubObjectName && prefix == "":
			prefix = string(bytes.TrimRight(body, "\x00"))
		case kind != grubObjectELF:
			return bad("an object of kind %d; phase-image adds modules and one prefix", kind)
		default:
			if name := grubModuleName(body); !slices.Contains(grubModules, name) && !slices.Contains(grubLinked, name) {
				return bad("module %.40q: not one that phase-image adds", name)
			}
		}
	}
	if want := "/" + a.grubPrefix(); prefix != want {
		return bad("it reads its menu in %.80q, want %s", prefix, want)
	}
	return nil
}

// grubModuleName returns the name that a module has in its section .modname.
func grubModuleName(data []byte) string {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return "?"
	}
	section := f.Section(".modname")
	if section == nil || section.Size > 64 {
		return "?"
	}
	name, err := section.Data()
	if err != nil {
		return "?"
	}
	return string(bytes.TrimRight(name, "\x00"))
}

var (
	grubTimeout = regexp.MustCompile(`^set timeout=([0-9]{1,4})$`)
	grubDefault = regexp.MustCompile(`^set default=` + grubIDPrefix + `([a-z0-9-]{1,32})$`)
	grubTitle   = regexp.MustCompile(`^menuentry '(.*)' --id ` + grubIDPrefix + `([a-z0-9-]{1,32}) \{$`)
)

// readGRUBMenu reads grub.cfg. GRUB's language is a shell's, so the file must have exactly the text that phase-image
// writes for the entries that are found in it.
func readGRUBMenu(a architecture, text string) (g grubMenu, err error) {
	bad := func() (grubMenu, error) {
		return grubMenu{}, badLoader("%s: not as phase-image writes it", a.grubMenuPath())
	}
	lines := strings.Split(text, "\n")
	if len(lines) < 2 {
		return bad()
	}
	timeout, mode := grubTimeout.FindStringSubmatch(lines[0]), grubDefault.FindStringSubmatch(lines[1])
	if timeout == nil || mode == nil {
		return bad()
	}
	g = grubMenu{arch: a, timeout: timeout[1], mode: mode[1]}
	for lines = lines[2:]; len(lines) > 3; lines = lines[4:] {
		title := grubTitle.FindStringSubmatch(lines[0])
		words, found := strings.CutPrefix(lines[1], "\tlinux /"+a.kernelPath()+" ")
		if title == nil || !found {
			return bad()
		}
		// grubQuote is undone: checkCmdline and the comparison below refuse what is left of another form
		cmdline := strings.ReplaceAll(words, "'", "")
		if err := checkCmdline(cmdline); err != nil {
			return grubMenu{}, badLoader("%s: %v", a.grubMenuPath(), err)
		}
		args := bootargs.Parse(cmdline)
		if args.Mode == "" {
			args.Mode = modes.Default
		}
		g.entries = append(g.entries, BootEntry{Mode: title[2], Arch: a.Arch, Boots: args.Mode, Title: strings.ReplaceAll(title[1], `'\''`, "'"), Cmdline: cmdline})
	}
	if g.text() != text {
		return bad()
	}
	return g, g.check()
}

func (g grubMenu) check() error {
	var names []string
	for _, e := range g.entries {
		if strings.ContainsFunc(e.Title+e.Cmdline, func(r rune) bool { return r < ' ' || r > '~' }) || slices.Contains(names, e.Mode) {
			return badLoader("%s: entry %.40q: repeated, or other characters than printable ASCII", g.arch.grubMenuPath(), e.Mode)
		}
		names = append(names, e.Mode)
	}
	if !slices.Contains(names, g.mode) {
		return badLoader("%s: default %.40q has no entry", g.arch.grubMenuPath(), g.mode)
	}
	return nil
}

// grubPaths returns the paths of the folders and files of a partition that GRUB boots.
func grubPaths() (dirs, files []string) {
	dirs = []string{"efi", "efi/boot"}
	for _, a := range architectures {
		dirs = append(dirs, a.grubPrefix(), a.folder)
		files = append(files, append(a.systemPaths(), a.grubMenuPath())...)
	}
	return dirs, files
}

// A grubMenus is what GRUB starts on a partition, on machines of each architecture.
type grubMenus struct {
	mode    string // that starts without a key press
	entries []BootEntry
	sums    []string // of GRUB's program, by architecture
}

// readGRUBMenus checks GRUB and reads its menu for each architecture of a partition.
func readGRUBMenus(archs []architecture, files map[string]*fatFile) (all grubMenus, err error) {
	for _, a := range architectures {
		if !slices.Contains(archs, a) {
			if files[a.grubMenuPath()] != nil {
				return all, badLoader("%s: there is no loader for %s", a.grubMenuPath(), a.Arch)
			}
			continue
		}
		menu, sum, err := readGRUBFiles(a, files)
		if err != nil {
			return all, err
		}
		if all.mode != "" && menu.mode != all.mode {
			return all, badLoader("%s: default %.40q, want %.40q as on other machines", a.grubMenuPath(), menu.mode, all.mode)
		}
		slices.SortFunc(menu.entries, func(a, b BootEntry) int { return strings.Compare(a.Mode, b.Mode) })
		all = grubMenus{menu.mode, append(all.entries, menu.entries...), append(all.sums, sum)}
	}
	return all, nil
}

// readGRUBFiles checks GRUB and reads its menu. It returns the digest of GRUB.
func readGRUBFiles(a architecture, files map[string]*fatFile) (menu grubMenu, sum string, err error) {
	loader, config := files[a.systemPaths()[0]], files[a.grubMenuPath()]
	if err := readGRUB(a, loader, loader.size); err != nil {
		return menu, "", err
	}
	if sum, err = sumOf(loader.reader()); err != nil {
		return menu, "", err
	}
	if config.size > maxGrubConfig {
		return menu, "", badLoader("%s: more than %d bytes", a.grubMenuPath(), maxGrubConfig)
	}
	text, err := io.ReadAll(config.reader())
	if err != nil {
		return menu, "", err
	}
	menu, err = readGRUBMenu(a, string(text))
	return menu, sum, err
}

// readFallback reads the second EFI system partition of an image: GRUB with the same entries, the same kernel and
// the same initramfs as the first partition.
func (c *Contents) readFallback(r io.ReaderAt, size int64) error {
	if c.Bootloader != LoaderSystemd {
		return badLoader("second EFI system partition, and no systemd-boot on the first")
	}
	f, err := openFAT(r, size)
	if err != nil {
		return err
	}
	dirs, names := grubPaths()
	files, err := f.bootFiles(dirs, names)
	if err != nil {
		return err
	}
	if _, renewed := splitRenewed(files); len(renewed) > 0 {
		return badFAT("a renewed boot set without systemd-boot")
	}
	archs, err := archsOf(files, architecture.grubMenuPath)
	if err != nil {
		return err
	}
	if len(archs) != len(c.systems()) {
		return badLoader("second EFI system partition: for other architectures than the first one")
	}
	menus, err := readGRUBMenus(archs, files)
	if err != nil {
		return err
	}
	id, err := fatIdentity(files)
	if err != nil {
		return err
	}
	c.Bootloader, c.identity = LoaderBoth, identityOfBoth(c.identity, id)
	first := slices.Clone(c.Entries)
	for i := range first {
		first[i].Cmdline = strings.Join(strings.Fields(first[i].Cmdline), " ")
	}
	if menus.mode != c.Default || !slices.Equal(menus.entries, first) {
		return badLoader("%s: other entries than those of systemd-boot", grubFolder)
	}
	for i, a := range archs {
		s := &c.System
		if i > 0 {
			s = &c.Others[i-1]
		}
		s.GRUB = menus.sums[i]
		if err := sameSystem(a, files, *s); err != nil {
			return err
		}
	}
	return nil
}

// sameSystem refuses a second EFI system partition with another kernel or initramfs than the first one.
func sameSystem(a architecture, files map[string]*fatFile, s System) error {
	for name, want := range map[string]string{a.kernelPath(): s.KernelSum, a.initramfsPath(): s.ArchiveSum} {
		if got, err := sumOf(files[name].reader()); err != nil || got != want {
			return fmt.Errorf("second EFI system partition: %w", badLoader("%s: differs from that of the first partition", name))
		}
	}
	return nil
}
