package imagebuild

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/imagebuild/diskformat"
)

// Rebuild is the input of CompareRebuild that the image does not contain.
type Rebuild struct {
	Flavour    string // "": the flavour of the image's kernel
	KernelFrom string // see Builder.Kernel
	// PhaseBoot returns the path of the static phase-boot program for an architecture.
	PhaseBoot func(arch string) (string, error)
	// Authorities are those of Initramfs.
	Authorities []byte
}

// CompareRebuild builds an image again from this host's packages and programs, with the
// root.json, channel, mode, command line and date that c holds. It compares every byte
// outside the cache partition. An error that wraps cas.ErrCorrupt names the part that
// differs.
func (b *Builder) CompareRebuild(ctx context.Context, c *Contents, r Rebuild) error {
	media, err := c.inputs(r)
	if err != nil {
		return err
	}
	seconds, err := strconv.ParseInt(c.BuildTime, 10, 64)
	if err != nil {
		return err
	}
	again := b.at(time.Unix(seconds, 0))
	tmp, clean, err := b.tempDir()
	if err != nil {
		return err
	}
	defer clean()
	out := filepath.Join(tmp, filepath.Base(c.Image)) // a VMDK repeats its name
	if err := again.build(ctx, c, media, out); err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	if err := b.compare(ctx, c, out); err != nil {
		return err
	}
	c.compared(comparedRebuild)
	return nil
}

// build makes an image of the kind of c.
func (b *Builder) build(ctx context.Context, c *Contents, m Media, out string) (err error) {
	if c.UKI { // the medium around it differs with the signature
		_, err = b.WriteUKI(ctx, m, out)
		return err
	}
	switch c.Kind {
	case KindDisk:
		_, err = b.WriteUSB(ctx, m, cmp.Or(c.Built, c.Size), out)
	case KindESP:
		_, err = b.WriteESP(ctx, m, out)
	case KindISO:
		_, err = b.WriteISO(ctx, m, out)
	default:
		if format := diskformat.Named(c.Kind); format != nil {
			_, err = b.WriteDisk(ctx, m, c.DiskSize, format, out)
			break
		}
		_, err = b.WriteInitramfs(ctx, m.Initramfs, out)
	}
	return err
}

// inputs returns the input that the image must have been made of.
func (c *Contents) inputs(r Rebuild) (Media, error) {
	var all []Initramfs
	for _, s := range c.systems() {
		in, err := c.initramfsOf(s, r)
		if err != nil {
			return Media{}, err
		}
		all = append(all, in)
	}
	m := Media{DefaultMode: c.Default, Bootloader: c.Bootloader, Initramfs: all[0], Others: all[1:]}
	for _, e := range c.Entries {
		_, options, _ := strings.Cut(m.Platform.entry("", e.Mode, 1, ""), "options ") // a title may have that word
		if more, found := strings.CutPrefix(e.Cmdline, strings.TrimSpace(options)); found {
			m.Cmdline = strings.TrimSpace(more)
		}
	}
	return m, nil
}

// initramfsOf returns the input of the initramfs of one architecture.
func (c *Contents) initramfsOf(s System, r Rebuild) (in Initramfs, err error) {
	if r.Flavour == "" {
		if r.Flavour = "generic"; strings.Contains(s.Modules, "cloud") {
			r.Flavour = "vm"
		}
	}
	in = Initramfs{Role: c.Role, Root: c.root, Channel: c.Channel, KernelFrom: r.KernelFrom, Authorities: r.Authorities, WithTor: c.Tor, Torrc: c.torrc}
	if in.Modes, err = c.ownModes(); err != nil {
		return in, err
	}
	if in.Platform, err = ParsePlatform(s.Arch, r.Flavour); err != nil {
		return in, err
	}
	in.PhaseBoot, err = r.PhaseBoot(s.Arch)
	return in, err
}

// compare reports the first part that differs between an image and its rebuild.
func (b *Builder) compare(ctx context.Context, c *Contents, rebuilt string) error {
	again, err := b.Verify(ctx, rebuilt)
	if err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	for i, here := range c.systems() {
		if err := compareSystem(c, here, again.systems()[i]); err != nil {
			return err
		}
	}
	for _, part := range []struct{ name, here, again string }{
		{"modes", c.modesText(), again.modesText()},
		{"boot menu", fmt.Sprint(c.Default, c.Entries), fmt.Sprint(again.Default, again.Entries)},
	} {
		if part.here != part.again {
			return differs(c.Image, fmt.Sprintf("%s is %.120q, rebuilt %.120q", part.name, part.here, part.again))
		}
	}
	if c.Signer != nil { // the rebuild is not signed; stub and sections, which are equal, are all that there is
		return nil
	}
	return c.compareBytes(ctx, rebuilt)
}

func compareSystem(c *Contents, here, again System) error {
	for _, part := range []struct{ name, here, again string }{
		{c.loaderName(), here.Loader, again.Loader},
		{"GRUB", here.GRUB, again.GRUB},
		{"kernel", here.KernelSum, again.KernelSum},
		{"init", here.Init, again.Init},
		{"initramfs", here.ArchiveSum, again.ArchiveSum},
	} {
		if part.here != part.again {
			return differs(c.Image, fmt.Sprintf("%s is %.120q, rebuilt %.120q", part.name, part.here, part.again))
		}
	}
	return nil
}

func differs(image, what string) error {
	return fmt.Errorf("image %s: differs from its rebuild: %s; rebuild it with the packages and programs that it was made of, or do not trust it: %w", image, what, cas.ErrCorrupt)
}

// compareBytes compares all bytes outside the cache partition, to which machines write. Of an image
// for virtual machines it compares all.
func (c *Contents) compareBytes(ctx context.Context, rebuilt string) error {
	here, _ := imageFile(c.Image)
	a, _, err := openImage(here)
	if err != nil {
		return err
	}
	defer a.Close()
	again, _ := imageFile(rebuilt)
	z, _, err := openImage(again)
	if err != nil {
		return err
	}
	defer z.Close()
	head, tail := span{0, c.Size}, span{c.Size, 0}
	if c.cache.size > 0 && c.Kind == KindDisk {
		end := c.cache.start + c.cache.size
		head, tail = span{0, c.cache.start}, span{end, c.Size - end}
	}
	if c.grown() {
		if err := c.compareTable(a, z); err != nil {
			return err
		}
		head, tail = span{tableEnd, c.cache.start - tableEnd}, span{c.Size, 0}
	}
	spans := []span{head, tail}
	if len(c.Renewed) > 0 { // its files were compared
		end := c.esp.start + c.esp.size
		spans = []span{{head.start, c.esp.start - head.start}, {end, head.start + head.size - end}, tail}
	}
	for _, s := range spans {
		here, err1 := sumRange(ctx, a, s.start, s.size)
		again, err2 := sumRange(ctx, z, s.start, s.size)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if here != again {
			return differs(c.Image, fmt.Sprintf("bytes %d to %d", s.start, s.start+s.size))
		}
	}
	return nil
}
