package imagebuild

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
)

// Rootfs is what WriteRootfs makes a target's root filesystem of.
type Rootfs struct {
	Platform   Platform
	Include    []string // Debian packages in addition to rootfs/packages
	Plasmd     string   // path of the static plasmd program
	KernelFrom string   // package or folder, see Builder.Kernel, for the modules of flavour generic
}

// RootfsInfo describes a root filesystem that was built.
type RootfsInfo struct {
	Out      string    `json:"out"`
	Size     int64     `json:"size"`
	Suite    string    `json:"suite"`
	Packages int       `json:"packages"`
	Kernel   string    `json:"kernel,omitempty"` // version of the modules
	Modules  int       `json:"modules"`
	Date     time.Time `json:"date"`
}

// WriteRootfs builds a root filesystem as a squashfs and writes it to out.
func (b *Builder) WriteRootfs(ctx context.Context, r Rootfs, out string) (*RootfsInfo, error) {
	if err := checkOut(out); err != nil {
		return nil, err
	}
	tools := []string{"mmdebstrap", "mksquashfs"}
	if len(r.Platform.modules(partRootfs)) > 0 {
		tools = append(tools, "depmod")
	}
	if err := requireTools(tools...); err != nil {
		return nil, err
	}
	program, built, err := readProgram(r.Plasmd, r.Platform)
	if err != nil {
		return nil, err
	}
	if err := checkNamespaces(); err != nil {
		return nil, err
	}
	base, err := b.planBase(ctx, r)
	if err != nil {
		return nil, err
	}
	drivers, err := b.drivers(ctx, r)
	if err != nil {
		return nil, err
	}
	layer, err := newLayer(r.Platform, program, b.date(base.date, built, drivers.date))
	if err != nil {
		return nil, err
	}
	for name, data := range drivers.files {
		layer.file(name, data, 0o644)
	}
	image, err := b.rootfs(ctx, base, layer)
	if err != nil {
		return nil, err
	}
	stat, err := os.Stat(image)
	if err != nil {
		return nil, err
	}
	info := &RootfsInfo{Out: out, Size: stat.Size(), Suite: base.suite, Packages: len(base.plan), Kernel: drivers.version, Modules: drivers.modules, Date: layer.date}
	return info, copyFile(image, out)
}

// rootfs returns the path of the squashfs in the cache and makes it when it is missing:
// packing takes longer than all other steps.
func (b *Builder) rootfs(ctx context.Context, p *base, l *layer) (string, error) {
	packer, err := command("mksquashfs", "-version").output(ctx)
	if err != nil && len(packer) == 0 {
		return "", err
	}
	h := sha256.Sum256(fmt.Appendf(nil, "%s\n%x\n%s\n%v", p.key(), l.digest(), packer, squashOptions))
	return b.cached(fmt.Sprintf("rootfs/%x.squashfs", h[:16]), func(file string) error {
		tar, err := b.base(ctx, p)
		if err != nil {
			return err
		}
		return b.packSquashfs(ctx, tar, l, file)
	})
}

// squashOptions are the options of mksquashfs. Without -root-mode, the umask decides the
// mode of the top folder. Its owner is always the user who runs mksquashfs (4.5.1).
var squashOptions = []string{"-tar", "-noappend", "-quiet", "-no-progress", "-reproducible", "-comp", "zstd", "-Xcompression-level", "15", "-root-mode", "0755"}

// A base is the plan of a Debian base system, to which a layer is applied.
type base struct {
	suite    string
	arch     string
	plan     []string // NAME=VERSION
	excludes []string // dpkg options
	date     time.Time
	sources  []source
	native   *base // the same system of the host's architecture, for a foreign one
}

var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)

// planBase makes the plan of the base system. It downloads nothing.
func (b *Builder) planBase(ctx context.Context, r Rootfs) (*base, error) {
	for _, name := range r.Include {
		if !packageName.MatchString(name) {
			return nil, optionsf("include %.60q: not the name of a Debian package", name)
		}
	}
	defer b.progress.step("plan of the root filesystem's packages")()
	wanted := append(dataWords("rootfs/packages"), r.Include...)
	if len(r.Platform.modules(partRootfs)) > 0 {
		wanted = append(wanted, dataWords("rootfs/packages-generic")...)
	}
	p, err := b.planArch(ctx, r.Platform.debian, wanted)
	if err != nil || p.arch == hostArch {
		return p, err
	}
	p.native, err = b.planArch(ctx, hostArch, wanted)
	if err != nil {
		return nil, fmt.Errorf("the configuration for %s is taken from the same packages for %s: %w", p.arch, hostArch, err)
	}
	return p, nil
}

// planArch makes the plan for one architecture.
func (b *Builder) planArch(ctx context.Context, arch string, wanted []string) (*base, error) {
	l, err := b.lists(ctx, arch)
	if err != nil {
		return nil, err
	}
	suite, sources, err := l.sources(ctx)
	if err != nil {
		return nil, err
	}
	plan, err := l.plan(ctx, wanted)
	if err == nil && b.pin != nil {
		plan, err = b.pin.plan(ctx, l, plan)
	}
	if err != nil {
		return nil, err
	}
	p := &base{suite: suite, arch: arch, plan: plan, excludes: dataWords("rootfs/excluded"), sources: sources}
	if p.date = b.epoch; p.date.IsZero() {
		p.date, err = releaseDate(sources, suite)
	}
	return p, err
}

// key returns the name of the base system in the cache. The same key means the same content.
func (p *base) key() string {
	if p.native != nil {
		h := sha256.Sum256([]byte("unpacked 1\n" + p.native.key() + "\n" + strings.Join(p.plan, " ") + "\n" + strconv.FormatInt(p.date.Unix(), 10)))
		return fmt.Sprintf("%s-%s-%x", p.suite, p.arch, h[:16])
	}
	h := sha256.Sum256([]byte(strings.Join([]string{"base 1", p.suite, p.arch, strings.Join(p.plan, " "), strings.Join(p.excludes, " "), strconv.FormatInt(p.date.Unix(), 10)}, "\n")))
	return fmt.Sprintf("%s-%s-%x", p.suite, p.arch, h[:16])
}

// base returns the path of the base system's tar in the cache and makes it when it is
// missing.
func (b *Builder) base(ctx context.Context, p *base) (string, error) {
	native := ""
	if p.native != nil {
		var err error
		if native, err = b.base(ctx, p.native); err != nil {
			return "", err
		}
	}
	return b.cached(filepath.Join("base", p.key()+".tar"), func(path string) error {
		defer b.progress.step(fmt.Sprintf("Debian %s, %d packages", p.suite, len(p.plan)))()
		if p.native != nil {
			return b.unpackForeign(ctx, p, native, path)
		}
		return p.bootstrap(ctx, path)
	})
}

// bootstrap makes the base system's tar with mmdebstrap.
func (p *base) bootstrap(ctx context.Context, path string) error {
	sources, err := deb822(p.sources)
	if err != nil {
		return err
	}
	options, err := acquireOptions(ctx)
	if err != nil {
		return err
	}
	out, err := os.Create(path)
	if err != nil {
		return file.FullDisk(err)
	}
	defer out.Close()
	for _, option := range p.excludes {
		options = append(options, "--dpkgopt="+option)
	}
	args := append(options, "--quiet", "--variant=custom", "--mode=auto", "--format=tar", "--architectures="+p.arch,
		"--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--include="+strings.Join(p.plan, ","), p.suite, "-", "-")
	build := command("mmdebstrap", args...).reads(strings.NewReader(sources)).with(fmt.Sprintf("SOURCE_DATE_EPOCH=%d", p.date.Unix()))
	build.stdout = out
	err = build.run(ctx)
	switch {
	case err == nil:
		return file.FullDisk(out.Close())
	case strings.Contains(err.Error(), "unable to pick chroot mode"):
		return fmt.Errorf("base system: an ordinary user needs user namespaces; run: apt-get install uidmap, and: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER: %w", err)
	case ctx.Err() != nil:
		return fmt.Errorf("base system: %w", ctx.Err())
	case errors.Is(err, cas.ErrUnreachable):
		return fmt.Errorf("base system: %w; check the network", err)
	}
	return fmt.Errorf("base system: %w; if a package is gone from the mirror, run: apt-get update", err)
}

// packSquashfs streams the base system, changed by the layer, into a squashfs.
func (b *Builder) packSquashfs(ctx context.Context, tar string, l *layer, file string) error {
	defer b.progress.step("squashfs")()
	in, err := os.Open(tar)
	if err != nil {
		return err
	}
	defer in.Close()
	r, w := io.Pipe()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		err := l.apply(in, w)
		w.CloseWithError(err)
		return err
	})
	group.Go(func() error {
		pack := command("mksquashfs", append([]string{"-", file}, squashOptions...)...)
		err := pack.reads(r).asRoot().with(fmt.Sprintf("SOURCE_DATE_EPOCH=%d", l.date.Unix())).run(ctx)
		r.CloseWithError(err)
		return err
	})
	if err := group.Wait(); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		return err
	}
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return errors.New("mksquashfs: wrote no file")
	}
	return nil
}
