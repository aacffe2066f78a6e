package imagebuild

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/imagebuild/diskformat"
)

// Rebuild is the input of a rebuild that the image does not contain.
type Rebuild struct {
	Flavour    string // "": the flavour of the image's kernel
	KernelFrom string // see Builder.Kernel
	// Newest takes this machine's newest packages, in place of those that the image lists.
	Newest bool
	// PhaseBoot returns the path of the static phase-boot program for an architecture.
	PhaseBoot func(arch string) (string, error)
	// Authorities are those of Initramfs.
	Authorities []byte
	// Trusted are packages that need not be in Debian's lists, because the caller trusts them.
	Trusted Inputs
}

// Rebuilt is what a rebuild found.
type Rebuilt struct {
	*Contents
	Equal      bool        `json:"equal"`
	Difference *Difference `json:"difference,omitempty"`
	// CacheDiffers says that the cache partition is not as it was built. Machines write to it.
	CacheDiffers bool `json:"cache_differs,omitempty"`
	// Listed says that each package is one that Debian's signed lists or Rebuild.Trusted name. Unlisted is the
	// reason if an equal image has another one, or the lists could not be read.
	Listed   bool  `json:"listed"`
	Unlisted error `json:"-"`
}

// Err is nil if the image is equal to its rebuild. Otherwise it names the part that differs, and wraps
// cas.ErrCorrupt.
func (r *Rebuilt) Err() error {
	if r.Equal {
		return nil
	}
	remedy := "rebuild it with the programs that it was made with"
	if r.Difference != nil && len(r.Difference.Part) > 0 && r.Difference.Part[len(r.Difference.Part)-1] == authoritiesPath {
		remedy = "give again each --ca that it was made with, and no other"
	}
	return fmt.Errorf("image %s: differs from its rebuild: %s; %s, or do not trust it: %w", r.Image, r.Difference, remedy, cas.ErrCorrupt)
}

// checkKernel refuses a rebuild that cannot be equal: the list of an image has its kernel, unless that was given
// with --kernel.
func (r Rebuild) checkKernel(c *Contents) error {
	for _, s := range c.systems() {
		i := slices.IndexFunc(s.Inputs, isKernel)
		switch {
		case len(s.Inputs) == 0: // of an earlier version
		case i < 0 && r.KernelFrom == "":
			return optionsf("image %s: made with --kernel, because its list of packages has no kernel; give the same --kernel again", c.Image)
		case i >= 0 && r.KernelFrom != "":
			return optionsf("image %s: made without --kernel, because it lists its kernel, %.80s; remove --kernel", c.Image, s.Inputs[i].Name)
		}
	}
	return nil
}

// Rebuild builds an image again from its own description: the packages that it lists, its root.json,
// channel, modes, command line and date. It compares every byte. If Verify refuses the image, Rebuild still
// names the part that differs where the description can be read.
func (b *Builder) Rebuild(ctx context.Context, image string, r Rebuild) (*Rebuilt, error) {
	c, refused := b.Verify(ctx, image)
	if errors.Is(refused, cas.ErrCorrupt) {
		c = b.salvage(image)
	}
	if c == nil {
		return nil, refused
	}
	result, err := b.rebuild(ctx, c, r)
	switch {
	case err != nil && refused != nil && ctx.Err() == nil: // the description itself may be what differs
		return nil, refused
	case err == nil && refused != nil && result.Equal:
		return nil, refused
	}
	return result, err
}

// CompareRebuild is Rebuild for an image that Verify has read. An error that wraps cas.ErrCorrupt names the
// part that differs.
func (b *Builder) CompareRebuild(ctx context.Context, c *Contents, r Rebuild) error {
	result, err := b.rebuild(ctx, c, r)
	if err == nil {
		err = result.Err()
	}
	return err
}

func (b *Builder) rebuild(ctx context.Context, c *Contents, r Rebuild) (*Rebuilt, error) {
	if err := r.checkKernel(c); err != nil {
		return nil, err
	}
	media, err := c.media(r)
	if err != nil {
		return nil, err
	}
	seconds, err := strconv.ParseInt(c.BuildTime, 10, 64)
	if err != nil {
		return nil, err
	}
	again := b.at(time.Unix(seconds, 0))
	if in := c.allInputs(); len(in) > 0 && !r.Newest {
		again = again.Pinned(in, "the list of the image", "add a source of snapshot.debian.org to apt, or rebuild with --newest if the packages may be others")
		again.pin.complete = true
	}
	tmp, clean, err := b.tempDir()
	if err != nil {
		return nil, err
	}
	defer clean()
	out := filepath.Join(tmp, filepath.Base(c.Image)) // a VMDK repeats its name
	if err := again.build(ctx, c, media, out); err != nil {
		return nil, fmt.Errorf("rebuild: %w", err)
	}
	result := &Rebuilt{Contents: c}
	if result.Difference, result.CacheDiffers, err = b.difference(ctx, c, out); err != nil {
		return nil, err
	}
	if result.Equal = result.Difference == nil; !result.Equal {
		return result, nil
	}
	result.Unlisted = b.checkListed(ctx, c.allInputs(), r.Trusted)
	result.Listed = result.Unlisted == nil
	c.rebuilt(result.Unlisted)
	return result, ctx.Err()
}

// build makes an image of the kind of c.
func (b *Builder) build(ctx context.Context, c *Contents, m Media, out string) (err error) {
	switch c.Kind {
	case KindUKI:
		_, err = b.WriteUKI(ctx, m, out)
	case KindDisk:
		_, err = b.WriteUSB(ctx, m, cmp.Or(c.Built, c.Size), out)
	case KindESP:
		_, err = b.WriteESP(ctx, m, out)
	case KindISO:
		_, err = b.WriteISO(ctx, m, out)
	case KindInitramfs:
		_, err = b.WriteInitramfs(ctx, m.Initramfs, out)
	default:
		_, err = b.WriteDisk(ctx, m, c.DiskSize, diskformat.Named(c.Kind), out)
	}
	return err
}

// media returns the input that the image must have been made of.
func (c *Contents) media(r Rebuild) (Media, error) {
	var all []Initramfs
	for _, s := range c.systems() {
		in, err := c.initramfsOf(s, r)
		if err != nil {
			return Media{}, err
		}
		all = append(all, in)
	}
	m := Media{DefaultMode: c.Default, Bootloader: c.Bootloader, Initramfs: all[0], Others: all[1:], Signing: c.signing}
	m.Cmdline = c.addedCmdline(m.Platform)
	return m, nil
}

// addedCmdline returns what was added to the command line of the entries: of most of them, so that one that
// was changed does not decide.
func (c *Contents) addedCmdline(p Platform) (best string) {
	count := map[string]int{}
	for _, e := range c.Entries {
		_, options, _ := strings.Cut(p.entry("", e.Mode, 1, ""), "options ") // a title may have that word
		if more, found := strings.CutPrefix(e.Cmdline, strings.TrimSpace(options)); found {
			more = strings.TrimSpace(more)
			if count[more]++; count[more] > count[best] {
				best = more
			}
		}
	}
	return best
}

// allInputs returns the packages of all architectures.
func (c *Contents) allInputs() (all Inputs) {
	for _, s := range c.systems() {
		for _, p := range s.Inputs {
			all = all.with(p)
		}
	}
	return all
}

// initramfsOf returns the input of the initramfs of one architecture.
func (c *Contents) initramfsOf(s System, r Rebuild) (in Initramfs, err error) {
	flavour := r.Flavour
	if flavour == "" {
		flavour = s.flavour()
	}
	in = Initramfs{Role: c.Role, Root: c.root, Channel: c.Channel, KernelFrom: r.KernelFrom, Authorities: r.Authorities, WithTor: c.Tor, Torrc: c.torrc}
	if in.Modes, err = c.ownModes(); err != nil {
		return in, err
	}
	if in.Platform, err = ParsePlatform(s.Arch, flavour); err != nil {
		return in, err
	}
	in.PhaseBoot, err = r.PhaseBoot(s.Arch)
	return in, err
}

// flavour returns the flavour: generic has packages with firmware, and of a list without them the name of the kernel,
// or of its package, decides. A kernel given with --kernel may have any name.
func (s System) flavour() string {
	var firmware, kernel bool
	cloud := strings.Contains(s.Modules, "cloud")
	for _, p := range s.Inputs {
		firmware = firmware || slices.Contains(firmwarePackages(), p.Name)
		kernel = kernel || isKernel(p)
		cloud = cloud || isKernel(p) && strings.Contains(p.Name, "-cloud-")
	}
	if !firmware && (cloud || !kernel && len(s.Inputs) > 0) {
		return "vm"
	}
	return "generic"
}

// isKernel reports whether a package is a kernel of Debian.
func isKernel(p Package) bool { return strings.HasPrefix(p.Name, "linux-image-") }

// difference compares an image with its rebuild.
func (b *Builder) difference(ctx context.Context, c *Contents, rebuilt string) (diff *Difference, cacheDiffers bool, err error) {
	here, close1, err := openBlob(c.Image)
	if err != nil {
		return nil, false, err
	}
	defer close1()
	again, close2, err := openBlob(rebuilt)
	if err != nil {
		return nil, false, err
	}
	defer close2()
	if c.Kind == KindDisk || c.Kind == KindISO { // a device may be larger
		here.size = c.Size
	}
	d := differ{ctx, len(c.Renewed) > 0 || c.mayBeRenewed}
	switch c.Kind {
	case KindInitramfs, KindUKI:
		diff = d.file(nil, here, again)
	case KindESP:
		diff = d.fat(nil, here, again)
	case KindISO:
		diff = d.disc(here, again, span{firstPartition, again.size - firstPartition - backupTable})
	case KindDisk:
		diff, cacheDiffers, err = d.stick(c, here, again)
	default:
		diff, err = b.virtualDisk(d, c, here, again)
	}
	if diff != nil && len(diff.Part) == 0 {
		diff.Part = []string{c.Kind}
	}
	return diff, cacheDiffers, cmp.Or(err, ctx.Err())
}

// openBlob opens an image; of a bundle, its disk image.
func openBlob(image string) (blob, func(), error) {
	path, _ := imageFile(image)
	f, size, err := openImage(path)
	return blob{f, size}, func() { f.Close() }, err
}

// stick compares two raw disks, the cache partition apart from the rest.
func (d differ) stick(c *Contents, here, again blob) (*Difference, bool, error) {
	t, err := readTable(again.r, again.size)
	if err != nil {
		return nil, false, fmt.Errorf("rebuild: %w", err)
	}
	if c.grown() {
		return d.grown(c, here, again, t), true, nil
	}
	if diff := d.disk(here, again, t, true); diff != nil {
		return diff, false, nil
	}
	if here.size != again.size {
		return &Difference{Part: []string{"size of the image"}, SHA256: here.sum(), Rebuilt: again.sum(), Note: fmt.Sprintf("%d bytes, rebuilt %d", here.size, again.size)}, false, nil
	}
	return nil, d.plain(nil, here.at(t.cache), again.at(t.cache)) != nil, nil
}

// grown compares a disk whose partition table was moved to the end of a larger device.
func (d differ) grown(c *Contents, here, again blob, t *table) *Difference {
	if c.compareTable(here.r, again.r) != nil {
		return d.plain([]string{"partition table"}, here.at(span{0, firstPartition}), again.at(span{0, firstPartition}))
	}
	gap := span{tableEnd, firstPartition - tableEnd}
	return cmp.Or(
		d.partitions(here, again, t),
		d.plain([]string{"bytes after the partition table"}, here.at(gap), again.at(gap)),
	)
}

// virtualDisk compares the disks in two images for virtual machines, then the images.
func (b *Builder) virtualDisk(d differ, c *Contents, here, again blob) (*Difference, error) {
	tmp, clean, err := b.tempDir()
	if err != nil {
		return nil, err
	}
	defer clean()
	var raw [2]blob
	for i, image := range []blob{here, again} {
		f, err := os.Create(filepath.Join(tmp, strconv.Itoa(i)))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		name, _ := imageFile(c.Image)
		in, err := diskformat.Named(c.Kind).Open(d.ctx, image.r, image.size, filepath.Base(name))
		if err == nil {
			err = in.Extract(d.ctx, f)
		}
		if err != nil {
			return nil, err
		}
		raw[i] = blob{f, in.Size}
	}
	t, err := readTable(raw[1].r, raw[1].size)
	if err != nil {
		return nil, err
	}
	return cmp.Or(d.disk(raw[0], raw[1], t, false), d.plain([]string{"tables of the " + c.Kind + " image"}, here, again)), nil
}
