package imagebuild

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/bootfile"
	"github.com/phaseboot/phaseboot/internal/bootset"
	"github.com/phaseboot/phaseboot/internal/fat32"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

// RenewOptions say where the boot set of a stick comes from.
type RenewOptions struct {
	Repo       string // folder with the signed metadata
	Artifacts  string // folder with boot/kernel and boot/initramfs
	Arch       string // "": the first one of the stick
	AllowFixed bool   // a device that is not removable
	Now        time.Time
}

// A Renewal describes a stick that was renewed, or was not because it has the boot set.
type Renewal struct {
	Image   string `json:"image"`
	Arch    string `json:"arch"`
	Channel string `json:"channel"`
	Release string `json:"release"`
	bootset.ID
	Written bool     `json:"written"`
	Words   string   `json:"words,omitempty"` // why nothing was written
	Sets    []string `json:"boot_sets"`       // renewed ones that the stick has now, the oldest first
}

// Renew writes the boot set of a repository's newest release to a stick, beside the sets that it has: an image of
// WriteUSB, or a device with one. It verifies the image first, and the release with the root.json of the image. A
// set of an older release wraps manifest.ErrRollback, files that are not the signed ones cas.ErrCorrupt, a release
// without a boot set fs.ErrNotExist, a stick that cannot be renewed fs.ErrInvalid. An interrupted or failed write is
// undone; a power cut leaves a stick that boots its older sets.
func (b *Builder) Renew(ctx context.Context, image string, o RenewOptions) (*Renewal, error) {
	stick, err := openStick(image, o.AllowFixed)
	if err != nil {
		return nil, err
	}
	defer stick.Close()
	c, err := b.Verify(ctx, image)
	if errors.Is(err, cas.ErrCorrupt) && mendStick(stick) {
		c, err = b.Verify(ctx, image)
	}
	if err != nil {
		return nil, err
	}
	if c.Kind != KindDisk || c.Bootloader != LoaderSystemd && c.Bootloader != LoaderBoth {
		return nil, optionsf("image %s: %v", image, bootset.ErrNoCounting)
	}
	arch := cmp.Or(o.Arch, c.Arch)
	i := slices.IndexFunc(architectures, func(a architecture) bool { return a.Arch == arch })
	if i < 0 || !slices.ContainsFunc(c.systems(), func(s System) bool { return s.Arch == arch }) {
		return nil, optionsf("arch %.40q: the stick does not boot it", arch)
	}
	u, done, err := c.update(ctx, architectures[i], o)
	if err != nil {
		return nil, err
	}
	defer done()
	defer b.progress.step("renew " + filepath.Base(image))()
	r := &Renewal{Image: image, Arch: arch, Channel: c.channelOf(), Release: u.Release, ID: u.ID()}
	return r, r.write(ctx, stick, c.esp, u)
}

// mendStick removes what a renewal has left that was cut, of each architecture, as a check of the filesystem would.
// It reports whether there was a stick to mend.
func mendStick(f *os.File) (mended bool) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return false
	}
	t, err := readTable(f, size)
	if err != nil {
		return false
	}
	for _, a := range architectures {
		if s, err := bootset.Open(&partition{f, t.esp}, t.esp.size, a.Arch); err == nil {
			mended = s.Mend() == nil || mended
		}
	}
	return mended
}

// write writes the set and describes the result.
func (r *Renewal) write(ctx context.Context, stick *os.File, esp span, u bootset.Update) error {
	s, err := bootset.Open(&partition{stick, esp}, esp.size, r.Arch)
	if err != nil {
		return optionsf("image %s: %v", r.Image, err)
	}
	switch err := s.Write(ctx, u); {
	case errors.Is(err, bootset.ErrUpToDate):
		r.Words = err.Error()
	case errors.Is(err, bootset.ErrOlder):
		return fmt.Errorf("image %s: release %.80q: %w: %w", r.Image, r.Release, err, manifest.ErrRollback)
	case errors.Is(err, bootset.ErrNoWriter), errors.Is(err, fat32.ErrFull):
		return optionsf("image %s: %v", r.Image, err)
	case err != nil:
		return fmt.Errorf("image %s: %w", r.Image, err)
	default:
		r.Written = true
	}
	for _, set := range s.Sets() {
		r.Sets = append(r.Sets, fmt.Sprintf("boot set %d, release %s: %s", set.Number, set.Release, set.Words()))
	}
	return nil
}

// update verifies the newest release and reads its boot set. done closes the files.
func (c *Contents) update(ctx context.Context, a architecture, o RenewOptions) (u bootset.Update, done func(), err error) {
	seconds, err := strconv.ParseInt(c.BuildTime, 10, 64)
	if err != nil {
		return u, nil, err
	}
	built := time.Unix(seconds, 0)
	v, err := manifest.Verify(ctx, manifest.DirFetcher(o.Repo), manifest.Policy{Root: c.root, Channel: c.channelOf(), Arch: a.Arch, Now: o.Now, Floor: built})
	if err != nil {
		return u, nil, fmt.Errorf("repository %s: %w", o.Repo, err)
	}
	release := v.Newest() // a person has chosen this stick, whatever the roll-out says
	if err := c.checkNotOlder(release); err != nil {
		return u, nil, err
	}
	u = bootset.Update{Number: release.Number, Release: release.Version, SignedAt: release.SignedAt, Modes: c.writingModes(a)}
	var files []*os.File
	done = func() {
		for _, f := range files {
			f.Close()
		}
	}
	for role, to := range map[string]*bootset.File{manifest.RoleBootKernel: &u.Kernel, manifest.RoleBootInitramfs: &u.Initramfs} {
		f, err := openArtifact(ctx, o.Artifacts, release, role)
		if err != nil {
			done()
			return u, nil, err
		}
		files = append(files, f)
		signed, _ := release.Artifact(role)
		*to = bootset.File{ReaderAt: f, Size: signed.Length, SHA256: signed.SHA256}
	}
	if err := c.checkNew(a, u, v.Root()); err != nil {
		done()
		return u, nil, fmt.Errorf("release %.80q: %w", release.Version, err)
	}
	return u, done, nil
}

// openArtifact opens a file of the boot set and compares it with the release.
func openArtifact(ctx context.Context, dir string, r manifest.Release, role string) (*os.File, error) {
	signed, ok := r.Artifact(role)
	if !ok {
		return nil, notFoundf("release %.80q: no boot set; phase-sign release --boot-kernel --boot-initramfs adds one", r.Version)
	}
	path := filepath.Join(dir, filepath.FromSlash(role))
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFoundf("artifact %s: no file %s; phase-boot fetch and phase-publish get write it", role, path)
	}
	if err != nil {
		return nil, fmt.Errorf("artifact %s: %w", role, err)
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() != signed.Length) {
		err = fmt.Errorf("not the %d bytes that were signed: %w", signed.Length, cas.ErrCorrupt)
	}
	var sum string
	if err == nil {
		sum, err = sumRange(ctx, f, 0, signed.Length)
	}
	if err == nil && sum != signed.SHA256 {
		err = fmt.Errorf("sha256 is %s, signed is %s: %w", sum, signed.SHA256, cas.ErrCorrupt)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("artifact %s: %s: %w", role, path, err)
	}
	return f, nil
}

// checkNew refuses a boot set that would not boot the stick, or that trusts another root than the newest one of the
// chain that begins with the root of the stick.
func (c *Contents) checkNew(a architecture, u bootset.Update, newest *manifest.Root) error {
	if err := bootfile.CheckKernel(u.Kernel, u.Kernel.Size, a.Arch); err != nil {
		return fmt.Errorf("%s: %w: %w", manifest.RoleBootKernel, err, cas.ErrCorrupt)
	}
	set, err := c.readNewInitramfs(a, u.Initramfs, u.Initramfs.Size)
	if err != nil {
		return fmt.Errorf("%s: %w", manifest.RoleBootInitramfs, err)
	}
	if root := set.files["root.json"]; !bytes.Equal(root, c.root) && !bytes.Equal(root, newest.Bytes()) {
		return fmt.Errorf("%s: its root.json is neither that of the stick nor version %d, the newest of its repository; build it with the newest one: %w",
			manifest.RoleBootInitramfs, newest.Version(), manifest.ErrUntrusted)
	}
	return nil
}

// channelOf returns the channel that the stick boots.
func (c *Contents) channelOf() string {
	for _, e := range c.Entries {
		if channel := bootargs.Parse(e.Cmdline).Channel; channel != "" {
			return channel
		}
	}
	return c.Channel
}

// writingModes returns the modes of the boot menu in which a machine may write to the stick.
func (c *Contents) writingModes(a architecture) (names []string) {
	for _, e := range c.Entries {
		mode, err := c.modes.Load(e.Boots)
		if err == nil && e.Arch == a.Arch && mayWrite(mode, bootargs.Parse(e.Cmdline)) {
			names = append(names, e.Mode)
		}
	}
	return names
}

// mayWrite reports whether a boot may write to disks, by the rules of the machine.
func mayWrite(m modes.Mode, args bootargs.Arguments) bool {
	return m.Cache == "rw" && !args.NoWrite && (args.Cache == "" || args.Cache == "rw")
}

// openStick opens an image or a device for writing. A device is for this process alone.
func openStick(name string, allowFixed bool) (*os.File, error) {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, notFoundf("image %s: no such file; check the path", name)
	case err != nil:
		return nil, fmt.Errorf("image: %w", file.Pathless(err))
	case info.Mode().IsRegular():
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("image: %w", err)
		}
		return f, nil
	}
	d, err := openDeviceWith(name, 0, allowFixed, 0)
	if err != nil {
		return nil, err
	}
	return d.File, nil
}

// A partition is a part of a disk as a fat32.Device.
type partition struct {
	*os.File
	at span
}

func (p *partition) ReadAt(b []byte, off int64) (int, error) {
	return io.NewSectionReader(p.File, p.at.start, p.at.size).ReadAt(b, off)
}

func (p *partition) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > p.at.size {
		return 0, fmt.Errorf("write at byte %d: outside of the EFI system partition", off)
	}
	return p.File.WriteAt(b, p.at.start+off)
}
