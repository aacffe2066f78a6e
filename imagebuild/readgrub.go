package imagebuild

import (
	"bytes"
	"debug/elf"
	"debug/pe"
	"encoding/binary"
	"fmt"
	"io"
	"path"
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

// readGRUB refuses a GRUB that reads its menu from another place than grubConfigPath, or brings other modules or a
// configuration of its own. The code of the modules is compared by a rebuild only.
func readGRUB(r io.ReaderAt, size int64) error {
	bad := func(format string, args ...any) error { return badLoader("GRUB: "+format, args...) }
	if size > maxGRUB {
		return bad("more than %d bytes", maxGRUB)
	}
	data := make([]byte, size)
	if _, err := r.ReadAt(data, 0); err != nil && err != io.EOF {
		return err
	}
	program, err := pe.NewFile(bytes.NewReader(data))
	if err != nil {
		return bad("not an EFI program")
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
	if prefix != grubPrefix {
		return bad("it reads its menu in %.80q, want %s", prefix, grubPrefix)
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
		return grubMenu{}, badLoader("%s: not as phase-image writes it", grubConfigPath)
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
			return grubMenu{}, badLoader("%s: %v", grubConfigPath, err)
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
			return badLoader("%s: entry %.40q: repeated, or other characters than printable ASCII", grubConfigPath, e.Mode)
		}
		names = append(names, e.Mode)
	}
	if !slices.Contains(names, g.mode) {
		return badLoader("%s: default %.40q has no entry", grubConfigPath, g.mode)
	}
	return nil
}

// grubFiles are the paths of a partition that GRUB boots.
func grubFiles(a architecture) (dirs, files []string) {
	return []string{"efi", "efi/boot", path.Dir(grubConfigPath), "phase", a.folder}, append(a.systemPaths(), grubConfigPath)
}

// readGRUBFiles checks GRUB and reads its menu. It returns the digest of GRUB.
func readGRUBFiles(a architecture, files map[string]*fatFile) (menu grubMenu, sum string, err error) {
	loader, config := files[a.systemPaths()[0]], files[grubConfigPath]
	if err := readGRUB(loader, loader.size); err != nil {
		return menu, "", err
	}
	if sum, err = sumOf(loader.reader()); err != nil {
		return menu, "", err
	}
	if config.size > maxGrubConfig {
		return menu, "", badLoader("%s: more than %d bytes", grubConfigPath, maxGrubConfig)
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
	i := slices.IndexFunc(architectures, func(a architecture) bool { return a.Arch == c.Arch })
	if i < 0 || len(c.Others) > 0 {
		return badLoader("second EFI system partition of an image for several architectures")
	}
	if c.Bootloader != LoaderSystemd {
		return badLoader("second EFI system partition, and no systemd-boot on the first")
	}
	a := architectures[i]
	f, err := openFAT(r, size)
	if err != nil {
		return err
	}
	dirs, names := grubFiles(a)
	files, err := f.bootFiles(dirs, names)
	if err != nil {
		return err
	}
	if _, err := archsOf(files, grubConfigPath); err != nil {
		return err
	}
	menu, sum, err := readGRUBFiles(a, files)
	if err != nil {
		return err
	}
	id, err := fatIdentity(files)
	if err != nil {
		return err
	}
	c.Bootloader, c.GRUB, c.identity = LoaderBoth, sum, identityOfBoth(c.identity, id)
	slices.SortFunc(menu.entries, func(a, b BootEntry) int { return strings.Compare(a.Mode, b.Mode) })
	first := slices.Clone(c.Entries)
	for i := range first {
		first[i].Cmdline = strings.Join(strings.Fields(first[i].Cmdline), " ")
	}
	if menu.mode != c.Default || !slices.Equal(menu.entries, first) {
		return badLoader("%s: other entries than those of systemd-boot", grubConfigPath)
	}
	for name, want := range map[string]string{a.kernelPath(): c.KernelSum, a.initramfsPath(): c.ArchiveSum} {
		if got, err := sumOf(files[name].reader()); err != nil || got != want {
			return fmt.Errorf("second EFI system partition: %w", badLoader("%s: differs from that of the first partition", name))
		}
	}
	return nil
}
