package imagebuild

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
)

// A deb is one package version of the host's apt index.
type deb struct {
	Name, Version, Arch string
	File                string // base name of the .deb
	SHA256              string // lower-case hex
	Depends             string
}

// resolve asks the host's apt for the candidate version of a package.
func (b *Builder) resolve(ctx context.Context, name, arch string) (deb, error) {
	out, err := command("apt-cache", "show", "--no-all-versions", name+":"+arch).output(ctx)
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
	return d, nil
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
	d.File = path.Base(d.File)
	d.SHA256 = strings.ToLower(d.SHA256)
	return d
}

var kernelPackage = regexp.MustCompile(`\b(linux-image-[0-9][a-z0-9.+-]*)`)

// resolveKernel finds the kernel's package through Debian's meta package.
func (b *Builder) resolveKernel(ctx context.Context, p Platform) (deb, error) {
	meta, err := b.resolve(ctx, p.kernel, p.debian)
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

// download returns the path of the package in the cache and downloads it when it is missing.
// Both a cached and a new file must have the SHA-256 of apt's signed index.
func (b *Builder) download(ctx context.Context, d deb) (string, error) {
	file := filepath.Join(b.cache, "deb", d.SHA256, d.File)
	if sum, err := sumFile(file); err == nil && sum == d.SHA256 {
		return file, nil
	}
	defer b.progress.step("download " + d.File)()
	tmp, clean, err := b.tempDir()
	if err != nil {
		return "", err
	}
	defer clean()
	exact := fmt.Sprintf("%s:%s=%s", d.Name, d.Arch, d.Version)
	if d.Arch == "all" {
		exact = d.Name + "=" + d.Version
	}
	// apt would warn that its unprivileged user cannot write to this folder
	get := command("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", exact).in(tmp)
	if err := get.run(ctx); ctx.Err() != nil {
		return "", fmt.Errorf("package %s: %w", d.File, ctx.Err())
	} else if errors.Is(err, cas.ErrUnreachable) {
		return "", fmt.Errorf("package %s: %w; check the network", d.File, err)
	} else if err != nil {
		return "", fmt.Errorf("package %s: %w; if it is gone from the mirror, run: apt-get update", d.File, err)
	}
	got, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(got) != 1 {
		return "", fmt.Errorf("package %s: apt-get download left %d files", d.File, len(got))
	}
	sum, err := sumFile(got[0])
	if err != nil {
		return "", err
	}
	if sum != d.SHA256 {
		return "", fmt.Errorf("package %s: sha256 is %s, apt's lists say %s; run: apt-get update", d.File, sum, d.SHA256)
	}
	return file, b.moveToCache(got[0], file)
}

// moveToCache moves a finished file or folder into the cache and syncs it before: the content of
// a cached name is not checked again. If another process has already stored the same
// content, that copy stays.
func (b *Builder) moveToCache(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return file.FullDisk(err)
	}
	if err := syncAll(from); err != nil {
		return file.FullDisk(err)
	}
	err := os.Rename(from, to)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// syncAll syncs a file, or the filesystem of a folder, to the disk.
func syncAll(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return unix.Syncfs(int(f.Fd()))
	}
	return f.Sync()
}

func sumFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return sumOf(f)
}
