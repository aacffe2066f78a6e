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
)

// Rootfs says what a target's root filesystem is made of.
type Rootfs struct {
	Platform Platform
	Include  []string // Debian packages beyond those of rootfs/packages
	Plasmd   string   // path of the static plasmd program
}

// RootfsInfo tells what was built.
type RootfsInfo struct {
	Out      string    `json:"out"`
	Size     int64     `json:"size"`
	Suite    string    `json:"suite"`
	Packages int       `json:"packages"`
	Date     time.Time `json:"date"`
}

// WriteRootfs builds a root filesystem as a squashfs and writes it to out.
func (b *Builder) WriteRootfs(ctx context.Context, r Rootfs, out string) (*RootfsInfo, error) {
	if err := checkOut(out); err != nil {
		return nil, err
	}
	if _, err := lookTool("mksquashfs"); err != nil {
		return nil, err
	}
	program, built, err := readProgram(r.Plasmd, r.Platform)
	if err != nil {
		return nil, err
	}
	base, err := b.planBase(ctx, r)
	if err != nil {
		return nil, err
	}
	tar, err := b.base(ctx, base)
	if err != nil {
		return nil, err
	}
	date := b.date(base.date, built)
	layer, err := newLayer(program, date)
	if err != nil {
		return nil, err
	}
	err = buildFile(out, func(file string) error { return b.squash(ctx, tar, layer, file) })
	if err != nil {
		return nil, err
	}
	info := &RootfsInfo{Out: out, Suite: base.suite, Packages: len(base.plan), Date: date}
	stat, err := os.Stat(out)
	if err == nil {
		info.Size = stat.Size()
	}
	return info, err
}

// A base is one exact Debian system, before anything of ours is laid over it.
type base struct {
	suite    string
	arch     string
	plan     []string // NAME=VERSION
	excludes []string // options of dpkg
	date     time.Time
	sources  []source
}

var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)

// planBase decides what the base system holds, without downloading anything.
func (b *Builder) planBase(ctx context.Context, r Rootfs) (*base, error) {
	for _, name := range r.Include {
		if !packageName.MatchString(name) {
			return nil, optionsf("include %.60q: not the name of a Debian package", name)
		}
	}
	defer b.progress.step("plan the root filesystem's packages")()
	suite, sources, err := debianSources(ctx, r.Platform.debian)
	if err != nil {
		return nil, err
	}
	plan, err := planPackages(ctx, r.Platform.debian, append(dataWords("rootfs/packages"), r.Include...))
	if err != nil {
		return nil, err
	}
	p := &base{suite: suite, arch: r.Platform.debian, plan: plan, excludes: dataWords("rootfs/excluded"), sources: sources}
	if p.date = b.epoch; p.date.IsZero() {
		p.date, err = releaseDate(sources, suite)
	}
	return p, err
}

// key names a base system in the cache: the same key, the same content.
func (p *base) key() string {
	h := sha256.Sum256([]byte(strings.Join([]string{"base 1", p.suite, p.arch, strings.Join(p.plan, " "), strings.Join(p.excludes, " "), strconv.FormatInt(p.date.Unix(), 10)}, "\n")))
	return fmt.Sprintf("%s-%s-%x", p.suite, p.arch, h[:16])
}

// base returns the path of the base system's tar in the cache.
func (b *Builder) base(ctx context.Context, p *base) (string, error) {
	path := filepath.Join(b.cache, "base", p.key()+".tar")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	defer b.progress.step(fmt.Sprintf("Debian %s, %d packages", p.suite, len(p.plan)))()
	sources, err := deb822(p.sources)
	if err != nil {
		return "", err
	}
	options, err := acquireOptions(ctx)
	if err != nil {
		return "", err
	}
	tmp, clean, err := b.temp()
	if err != nil {
		return "", err
	}
	defer clean()
	out, err := os.Create(filepath.Join(tmp, "base.tar"))
	if err != nil {
		return "", noSpace(err)
	}
	defer out.Close()
	for _, option := range p.excludes {
		options = append(options, "--dpkgopt="+option)
	}
	args := append(options, "--quiet", "--variant=custom", "--mode=auto", "--format=tar", "--architectures="+p.arch,
		"--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--include="+strings.Join(p.plan, ","), p.suite, "-", "-")
	build := command("mmdebstrap", args...).reads(strings.NewReader(sources)).with(fmt.Sprintf("SOURCE_DATE_EPOCH=%d", p.date.Unix()))
	build.stdout = out
	if err := build.run(ctx); err != nil {
		return "", fmt.Errorf("base system: %w; if a package is gone from the mirror, run: apt-get update", err)
	}
	if err := out.Close(); err != nil {
		return "", noSpace(err)
	}
	return path, b.keep(out.Name(), path)
}

// squash streams the base system with our layer over it into a squashfs.
func (b *Builder) squash(ctx context.Context, tar string, l *layer, file string) error {
	defer b.progress.step("squashfs")()
	in, err := os.Open(tar)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.Remove(file); err != nil { // mksquashfs makes it itself
		return err
	}
	r, w := io.Pipe()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		err := l.apply(in, w)
		w.CloseWithError(err)
		return err
	})
	group.Go(func() error {
		pack := command("mksquashfs", "-", file, "-tar", "-noappend", "-quiet", "-no-progress", "-comp", "zstd", "-Xcompression-level", "15", "-reproducible")
		err := pack.reads(r).with(fmt.Sprintf("SOURCE_DATE_EPOCH=%d", l.date.Unix())).run(ctx)
		r.CloseWithError(err)
		return err
	})
	if err := group.Wait(); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		return err
	}
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return errors.New("mksquashfs: ended without a result")
	}
	return nil
}
