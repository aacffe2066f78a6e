package imagebuild

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Boot loaders of a medium.
const (
	LoaderSystemd = "systemd-boot"
	LoaderGRUB    = "grub"
	LoaderBoth    = "both" // systemd-boot, and GRUB on a second EFI system partition
)

// Loaders are the values of Media.Bootloader.
var Loaders = []string{LoaderSystemd, LoaderGRUB, LoaderBoth}

const (
	grubFolder    = "grub"
	grubIDPrefix  = "phase-" // of an entry: GRUB takes a number for the position of an entry
	maxGrubConfig = 64 << 10 // bytes
)

// grubPrefix returns the folder of the one menu that GRUB reads, on the partition that it was started from.
func (a architecture) grubPrefix() string { return grubFolder + strings.TrimPrefix(a.folder, "phase") }

func (a architecture) grubMenuPath() string { return a.grubPrefix() + "/grub.cfg" }

// grubTargets are GRUB's names of Debian's architectures.
var grubTargets = map[string]string{"amd64": "x86_64-efi", "arm64": "arm64-efi"}

// grubModules are the modules of GRUB that a boot needs. grub-mkimage adds those that they depend on.
var grubModules = []string{"normal", "linux", "part_gpt", "fat", "efi_gop"}

// grubLoaderInfo is a module of GRUB 2.12 that tells the machine which partition it was started from (Boot Loader
// Interface), as systemd-boot does.
const grubLoaderInfo = "bli"

// checkLoader refuses an unknown boot loader, and a command line that GRUB would not pass as it is.
func (m Media) checkLoader() error {
	switch {
	case m.Bootloader == "" || m.Bootloader == LoaderSystemd:
		return nil
	case !slices.Contains(Loaders, m.Bootloader):
		return optionsf("bootloader %.40q: unknown; use one of %s", m.Bootloader, strings.Join(Loaders, ", "))
	}
	if i := strings.IndexAny(m.Cmdline, `"'\`); i >= 0 {
		return optionsf("cmdline: character %q: GRUB would change it; remove it, or use --bootloader systemd-boot", m.Cmdline[i])
	}
	return nil
}

// loaderTools returns the tools that the boot loader needs.
func (m Media) loaderTools() []string {
	if m.Bootloader == LoaderGRUB || m.Bootloader == LoaderBoth {
		return []string{"grub-mkimage"}
	}
	return nil
}

// addGRUB adds GRUB where firmware looks for a loader, and its menu.
func (b *Builder) addGRUB(ctx context.Context, m Media, t *espTree) (err error) {
	for _, in := range m.systems() {
		p := in.Platform
		if t.files[p.loaderPath()], err = b.grub(ctx, p); err != nil {
			return err
		}
		var entries []BootEntry
		for _, name := range m.Modes.Available(m.WithTor) {
			mode, err := m.Modes.Load(name)
			if err != nil {
				return err
			}
			_, options, _ := strings.Cut(p.entry("", name, 1, m.Cmdline), "options ")
			entries = append(entries, BootEntry{Mode: name, Arch: p.Arch, Title: mode.Title, Cmdline: options})
		}
		t.files[p.grubMenuPath()] = []byte(grubMenu{p.architecture, p.timeout(), m.DefaultMode, entries}.text())
	}
	return nil
}

// grub makes GRUB's program from Debian's modules. It has no configuration of its own.
func (b *Builder) grub(ctx context.Context, p Platform) ([]byte, error) {
	target := grubTargets[p.debian]
	if target == "" {
		return nil, optionsf("bootloader grub: not for arch %s", p.Arch)
	}
	dir, err := b.packageFiles(ctx, grubPackage(p), p)
	if err != nil {
		return nil, err
	}
	tmp, clean, err := b.tempDir()
	if err != nil {
		return nil, err
	}
	defer clean()
	out := filepath.Join(tmp, "grub.efi")
	from := filepath.Join(dir, "usr/lib/grub", target)
	args := append([]string{"--format=" + target, "--directory=" + from, "--prefix=/" + p.grubPrefix(), "--output=" + out}, grubModules...)
	if isFile(filepath.Join(from, grubLoaderInfo+".mod")) {
		args = append(args, grubLoaderInfo)
	}
	if err := command("grub-mkimage", args...).run(ctx); err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}

// grubPackage is the package of GRUB's modules.
func grubPackage(p Platform) string { return "grub-efi-" + p.debian + "-bin" }

// A grubMenu is the content of grub.cfg.
type grubMenu struct {
	arch    architecture
	timeout string // seconds
	mode    string // that starts without a key press
	entries []BootEntry
}

// text returns the file. readGRUBMenu reads it.
func (g grubMenu) text() string {
	var w strings.Builder
	fmt.Fprintf(&w, "set timeout=%s\nset default=%s%s\n", g.timeout, grubIDPrefix, g.mode)
	for _, e := range g.entries {
		fmt.Fprintf(&w, "menuentry %s --id %s%s {\n\tlinux /%s", grubQuote(e.Title), grubIDPrefix, e.Mode, g.arch.kernelPath())
		for _, word := range strings.Fields(e.Cmdline) {
			w.WriteString(" " + grubQuote(word))
		}
		fmt.Fprintf(&w, "\n\tinitrd /%s\n}\n", g.arch.initramfsPath())
	}
	return w.String()
}

// grubQuote returns a word that GRUB takes as it is.
func grubQuote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }
