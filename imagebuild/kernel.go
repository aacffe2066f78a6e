package imagebuild

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/bootfile"
)

// A Kernel is a kernel image with its modules, unpacked.
type Kernel struct {
	Arch    string    // "x86_64"
	Version string    // as uname -r prints it
	Package string    // Debian package and version, or the folder
	Image   string    // path of vmlinuz
	Modules string    // path of lib/modules/VERSION
	Time    time.Time // date of the image
}

// Kernel finds the boot kernel in the folder dir, which has the layout of Debian's package
// (boot/vmlinuz-VERSION, lib/modules/VERSION). If dir is empty, it takes the platform's
// package from Debian.
func (b *Builder) Kernel(ctx context.Context, p Platform, dir string) (*Kernel, error) {
	if dir != "" {
		return openKernel(p.Arch, dir, dir)
	}
	d, err := b.resolveKernel(ctx, p)
	if err != nil {
		return nil, err
	}
	dir, err = b.unpack(ctx, d)
	if err != nil {
		return nil, err
	}
	return openKernel(p.Arch, dir, d.Name+" "+d.Version)
}

func openKernel(arch, dir, name string) (*Kernel, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("kernel folder %s: %w; check the path", dir, fs.ErrNotExist)
	}
	images, _ := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if len(images) != 1 {
		return nil, optionsf("kernel folder %s: %d files boot/vmlinuz-*, want 1; it must hold one unpacked kernel package", dir, len(images))
	}
	k := &Kernel{Arch: arch, Package: name, Image: images[0], Version: strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")}
	for _, lib := range []string{"usr/lib", "lib"} {
		if path := filepath.Join(dir, lib, "modules", k.Version); isDir(filepath.Join(path, "kernel")) {
			k.Modules = path
		}
	}
	if k.Modules == "" {
		return nil, optionsf("kernel folder %s: no lib/modules/%s/kernel", dir, k.Version)
	}
	info, err := os.Stat(k.Image)
	if err != nil {
		return nil, err
	}
	k.Time = info.ModTime()
	return k, nil
}

// kexecWarning warns about a kernel that cannot start a release. It is empty if the kernel can, or
// if its package has no configuration.
func (k *Kernel) kexecWarning() string {
	const option = "CONFIG_KEXEC_FILE"
	text, err := os.ReadFile(filepath.Join(filepath.Dir(k.Image), "config-"+k.Version))
	if err != nil || bytes.Contains(text, []byte("\n"+option+"=y\n")) {
		return ""
	}
	return fmt.Sprintf("warning: kernel %s: built without %s; a machine boots and verifies with it, but cannot start a release: name another kernel with --kernel-dir", k.Version, option)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// WriteKernel copies the kernel image to out, as kexec needs it: an arm64 Image is decompressed.
func (b *Builder) WriteKernel(ctx context.Context, k *Kernel, out string) error {
	if err := checkOut(out); err != nil {
		return err
	}
	data, err := readKernel(k)
	if err = cmp.Or(err, ctx.Err()); err != nil {
		return err
	}
	if data, err = openedKernel(data); err != nil {
		return err
	}
	return atomicfile.Write(out, 0o644, data)
}

// readKernel reads the kernel image. Firmware cannot start an Image in a gzip file, so that is
// decompressed. A truncated image, or one of another architecture, is cas.ErrCorrupt.
func readKernel(k *Kernel) ([]byte, error) {
	data, err := os.ReadFile(k.Image)
	if err != nil {
		return nil, err
	}
	if err := bootfile.CheckKernel(bytes.NewReader(data), int64(len(data)), k.Arch); err != nil {
		return nil, fmt.Errorf("kernel %s: %w: %w", k.Image, err, cas.ErrCorrupt)
	}
	if bytes.HasPrefix(data, []byte("\x1f\x8b")) {
		return openedKernel(data)
	}
	return data, nil
}

// openedKernel returns a kernel as kexec needs it.
func openedKernel(data []byte) ([]byte, error) {
	image, err := bootfile.OpenKernel(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, fmt.Errorf("kernel: %w: %w", err, cas.ErrCorrupt)
	}
	defer image.Close()
	return io.ReadAll(image)
}

// kernelVersion reads the version string of a kernel of size bytes. Anything else is
// cas.ErrCorrupt.
func kernelVersion(r io.ReaderAt, size int64, arch string) (string, error) {
	if arch == bootfile.X86_64 {
		return bzImageVersion(r)
	}
	image, err := bootfile.OpenKernel(r, size)
	if err != nil {
		return "", fmt.Errorf("%w: %w", err, cas.ErrCorrupt)
	}
	defer image.Close()
	return banner(image)
}

// maxBanner bounds the version string of a kernel, and maxKernelImage the part of a decompressed kernel in
// which it is searched, in bytes. Debian's kernel has 33 MiB.
const (
	maxBanner      = 256
	maxKernelImage = 512 << 20
)

var bannerText = regexp.MustCompile(`Linux version ([0-9][^\x00\n]{0,255})`)

// banner finds the version string in the data of an arm64 kernel, whose header has none. It
// reads a stream, and fails at an error of its decompression.
func banner(r io.Reader) (string, error) {
	const step = 1 << 20
	r = io.LimitReader(r, maxKernelImage) // a small file can have more data than a person waits for
	window := make([]byte, 0, step+2*maxBanner)
	for {
		n, err := io.ReadFull(r, window[len(window):len(window)+step])
		window = window[:len(window)+n]
		if m := bannerText.FindSubmatchIndex(window); m != nil && (m[1] < len(window) || err != nil) {
			return string(window[m[2]:m[3]]), nil
		}
		if err != nil {
			return "", fmt.Errorf("arm64 kernel: no version string: %w", cas.ErrCorrupt)
		}
		window = window[:copy(window, window[max(0, len(window)-2*maxBanner):])]
	}
}

// bzImageVersion reads the version string of an x86 bzImage (Linux, Documentation/arch/x86/
// boot.rst: header at 0x202, kernel_version at 0x20e).
func bzImageVersion(r io.ReaderAt) (string, error) {
	var head [0x210]byte
	if _, err := r.ReadAt(head[:], 0); err != nil || string(head[0x202:0x206]) != "HdrS" {
		return "", fmt.Errorf("not an x86 bzImage: %w", cas.ErrCorrupt)
	}
	text := make([]byte, maxBanner)
	n, _ := r.ReadAt(text, int64(binary.LittleEndian.Uint16(head[0x20e:]))+0x200)
	banner, _, found := strings.Cut(string(text[:n]), "\x00")
	if !found || banner == "" {
		return "", fmt.Errorf("x86 bzImage: no version string: %w", cas.ErrCorrupt)
	}
	return banner, nil
}
