package imagebuild

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/cas"
)

// A deb is one package version of apt's lists.
type deb struct {
	Name, Version, Arch string
	File                string // base name of the .deb
	SHA256              string // lower-case hex
	Depends             string

	pool  string // path below the mirror's address
	lists lists  // where apt knows it from
}

// resolve returns the version of a package that images are made of: that of the builder's list, or
// else apt's candidate. arch is Debian's name.
func (b *Builder) resolve(ctx context.Context, name, arch string) (deb, error) {
	find := b.candidate
	if b.pin != nil {
		find = func(_ context.Context, name, arch string) (deb, error) { return b.pin.find(name, arch) }
	}
	d, err := find(ctx, name, arch)
	if err == nil {
		b.used.add(d)
	}
	return d, err
}

// candidate asks apt for the candidate version of a package.
func (b *Builder) candidate(ctx context.Context, name, arch string) (deb, error) {
	l, err := b.lists(ctx, arch)
	if err != nil {
		return deb{}, err
	}
	out, err := l.command("apt-cache", "show", "--no-all-versions", name+":"+arch).output(ctx)
	var bad *toolError
	if err != nil && !errors.As(err, &bad) {
		return deb{}, err
	}
	d := parseStanza(out)
	if d.Name != name || d.SHA256 == "" {
		return deb{}, notFoundf("package %s: not in apt's lists; run: apt-get update", name)
	}
	if _, err := hex.DecodeString(d.SHA256); err != nil || len(d.SHA256) != 64 {
		return deb{}, fmt.Errorf("package %s: no valid sha256 in apt's lists; run: apt-get update", name)
	}
	d.lists = l
	return d, nil
}

// resolveKnown returns those of some packages that the builder's list has, or else those that apt knows. They are
// the same for all architectures. A package that apt knows and the list does not have is ErrPinned, unless the list
// is complete.
func (b *Builder) resolveKnown(ctx context.Context, names []string) (known map[string]deb, err error) {
	if b.pin == nil || !b.pin.complete {
		if known, err = b.candidates(ctx, names); err != nil {
			return nil, err
		}
	}
	if b.pin != nil {
		found := map[string]deb{}
		for _, name := range names {
			p, ok := b.pin.inputs.find(name, hostArch)
			if _, listed := known[name]; listed && !ok {
				return nil, b.pin.missing(name, hostArch)
			}
			if ok {
				found[name] = p.deb()
			}
		}
		known = found
	}
	for _, d := range known {
		b.used.add(d)
	}
	return known, nil
}

// candidates asks apt for the candidate versions of packages for the host's architecture. Those that apt
// does not know are left out.
func (b *Builder) candidates(ctx context.Context, names []string) (map[string]deb, error) {
	l, err := b.lists(ctx, hostArch)
	if err != nil {
		return nil, err
	}
	out, err := l.command("apt-cache", append([]string{"show", "--no-all-versions"}, names...)...).output(ctx)
	var bad *toolError
	if err != nil && !errors.As(err, &bad) {
		return nil, err
	}
	known := map[string]deb{}
	for _, stanza := range strings.Split(string(out), "\n\n") {
		if d := parseStanza([]byte(stanza)); len(d.SHA256) == 64 && slices.Contains(names, d.Name) {
			d.lists = l
			known[d.Name] = d
		}
	}
	return known, nil
}

// parseStanza reads the first stanza of the output of apt-cache show.
func parseStanza(data []byte) deb {
	var d deb
	fields := map[string]*string{"Package": &d.Name, "Version": &d.Version, "Architecture": &d.Arch, "Filename": &d.File, "SHA256": &d.SHA256, "Depends": &d.Depends}
	stanza, _, _ := strings.Cut(string(data), "\n\n")
	for line := range strings.Lines(stanza) {
		key, value, _ := strings.Cut(line, ":")
		if field := fields[key]; field != nil {
			*field = strings.TrimSpace(value)
		}
	}
	d.pool = path.Clean(d.File)
	d.File = path.Base(d.File)
	d.SHA256 = strings.ToLower(d.SHA256)
	return d
}

var kernelPackage = regexp.MustCompile(`\b(linux-image-[0-9][a-z0-9.+-]*)`)

// resolveKernel finds the kernel's package in the builder's list, or else through Debian's meta package.
func (b *Builder) resolveKernel(ctx context.Context, p Platform) (deb, error) {
	if b.pin != nil {
		k, ok := b.pin.inputs.kernel(p)
		if !ok {
			return deb{}, b.pin.missing(p.kernel, p.debian)
		}
		b.used.add(k.deb())
		return k.deb(), nil
	}
	meta, err := b.candidate(ctx, p.kernel, p.debian)
	if err != nil {
		return deb{}, err
	}
	m := kernelPackage.FindStringSubmatch(meta.Depends)
	if m == nil {
		return deb{}, fmt.Errorf("package %s %s: no kernel package in its dependencies: %.80q", meta.Name, meta.Version, meta.Depends)
	}
	return b.resolve(ctx, m[1], p.debian)
}

// unpack returns a folder of the cache with the package's files. It unpacks each SHA-256
// once; later builds share the folder.
func (b *Builder) unpack(ctx context.Context, d deb) (string, error) {
	return b.cached(filepath.Join("unpacked", d.SHA256), func(dir string) error {
		file, err := b.download(ctx, d)
		if err != nil {
			return err
		}
		defer b.progress.step("unpack " + d.File)()
		if err := command("dpkg-deb", "-x", file, dir).run(ctx); err != nil {
			return fmt.Errorf("package %s: %w", d.File, err)
		}
		return nil
	})
}

// unpackFile returns a folder of the cache with the files of a Debian package that the user has. It unpacks
// a copy: the digest by which the cache knows the folder is that of a file that nobody else can change.
func (b *Builder) unpackFile(ctx context.Context, name string) (string, error) {
	if err := checkDeb(name); err != nil {
		return "", err
	}
	tmp, clean, err := b.tempDir()
	if err != nil {
		return "", err
	}
	defer clean()
	own := filepath.Join(tmp, "package.deb")
	if err := copyFile(name, own); err != nil {
		return "", fmt.Errorf("package %s: %w", name, err)
	}
	sum, err := sumFile(own)
	if err != nil {
		return "", err
	}
	return b.cached(filepath.Join("unpacked", sum), func(dir string) error {
		defer b.progress.step("unpack " + filepath.Base(name))()
		if err := command("dpkg-deb", "-x", own, dir).run(ctx); err != nil {
			return fmt.Errorf("package %s: %w", name, err)
		}
		return nil
	})
}

// checkDeb refuses a file that is no Debian package, and says how to unpack it.
func checkDeb(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	var head [8]byte
	_, _ = io.ReadFull(f, head[:]) // a shorter file is no package
	switch {
	case string(head[:]) == "!<arch>\n":
		return nil
	case bytes.HasPrefix(head[:], []byte("\xed\xab\xee\xdb")):
		return optionsf("package %s: an RPM; unpack it into a folder (rpm2cpio FILE | cpio -idm) and name the folder", name)
	}
	return optionsf("package %s: not a Debian package; unpack it into a folder and name the folder, which has boot/vmlinuz-VERSION and lib/modules/VERSION", name)
}

// path returns the package's path in the cache.
func (d deb) path(b *Builder) string { return filepath.Join(b.cache, "deb", d.SHA256, d.File) }

// exact returns the package as apt names this one version.
func (d deb) exact() string {
	if d.Arch == "all" {
		return d.Name + "=" + d.Version
	}
	return fmt.Sprintf("%s:%s=%s", d.Name, d.Arch, d.Version)
}

// download returns the path of the package in the cache and downloads it when it is missing.
func (b *Builder) download(ctx context.Context, d deb) (string, error) {
	return d.path(b), b.downloadAll(ctx, d.File, []deb{d})
}

// downloadAll downloads the packages that are not in the cache, all of the same lists, with one
// run of apt. Both a cached and a new file must have the SHA-256 of apt's signed index, or of the
// builder's list. what names them all.
func (b *Builder) downloadAll(ctx context.Context, what string, debs []deb) error {
	missing := slices.DeleteFunc(slices.Clone(debs), func(d deb) bool {
		sum, err := sumFile(d.path(b))
		markUsed(filepath.Dir(d.path(b)))
		return err == nil && sum == d.SHA256
	})
	if len(missing) == 0 {
		return nil
	}
	if b.pin != nil {
		return b.fetchPinned(ctx, missing)
	}
	defer b.progress.step("download " + what)()
	tmp, clean, err := b.tempDir()
	if err != nil {
		return err
	}
	defer clean()
	// apt would warn that its unprivileged user cannot write to this folder
	args := []string{"-q", "-o", "APT::Sandbox::User=root", "download"}
	for _, d := range missing {
		args = append(args, d.exact())
	}
	get := missing[0].lists.command("apt-get", args...).in(tmp)
	if err := get.run(ctx); ctx.Err() != nil {
		return fmt.Errorf("package %s: %w", what, ctx.Err())
	} else if errors.Is(err, cas.ErrUnreachable) {
		return fmt.Errorf("package %s: %w; check the network", what, err)
	} else if err != nil {
		return fmt.Errorf("package %s: %w; if it is gone from the mirror, run: apt-get update", what, err)
	}
	got, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil {
		return err
	}
	return b.storeDebs(got, missing)
}

// storeDebs moves downloaded files into the cache. Each wanted package must be among them.
func (b *Builder) storeDebs(files []string, wanted []deb) error {
	bySum := map[string]string{}
	for _, file := range files {
		sum, err := sumFile(file)
		if err != nil {
			return err
		}
		bySum[sum] = file
	}
	for _, d := range wanted {
		file, ok := bySum[d.SHA256]
		if !ok {
			return fmt.Errorf("package %s: apt downloaded no file with sha256 %s, which apt's lists say; run: apt-get update", d.File, d.SHA256)
		}
		if err := b.moveToCache(file, d.path(b)); err != nil {
			return err
		}
	}
	return nil
}

func sumFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return sumOf(f)
}
