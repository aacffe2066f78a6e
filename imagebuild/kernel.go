package imagebuild

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/bootfile"
)

// A Kernel is a kernel image with its modules, unpacked. Read its files with open or root: a link in
// the folder cannot lead out of it.
type Kernel struct {
	Arch    string    // "x86_64"
	Version string    // as uname -r prints it
	Package string    // Debian package and version, or what the user named
	Image   string    // path of vmlinuz below the folder
	Modules string    // path of lib/modules/VERSION below the folder
	Time    time.Time // date of the image

	dir string
}

// Kernel finds a boot kernel. name is a Debian package (.deb) or a folder with the files of a
// kernel package. If it is empty, the kernel is the platform's package from Debian.
func (b *Builder) Kernel(ctx context.Context, p Platform, name string) (*Kernel, error) {
	if name == "" {
		d, err := b.resolveKernel(ctx, p)
		if err != nil {
			return nil, err
		}
		dir, err := b.unpack(ctx, d)
		if err != nil {
			return nil, err
		}
		return openKernel(p.Arch, dir, d.Name+" "+d.Version)
	}
	dir, err := b.kernelFolder(ctx, name)
	if err != nil {
		return nil, err
	}
	k, err := openKernel(p.Arch, dir, name)
	if err == nil {
		err = k.checkVersion()
	}
	return k, err
}

// kernelFolder returns the folder with the files of a kernel package that the user named.
func (b *Builder) kernelFolder(ctx context.Context, name string) (string, error) {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("kernel %s: %w; check the path", name, fs.ErrNotExist)
	case err != nil:
		return "", err
	case info.IsDir():
		return name, nil
	case !info.Mode().IsRegular():
		return "", optionsf("kernel %s: not a regular file; name a .deb, or a folder with the files of a kernel package", name)
	}
	return b.unpackFile(ctx, name)
}

// kernelPlaces are where packages of distributions have the kernel image and its modules. A place
// of modules contains the folder VERSION.
var (
	imagePlaces  = []string{"boot/vmlinuz-*", "boot/vmlinux-*", "boot/Image-*", "usr/lib/modules/*/vmlinuz", "lib/modules/*/vmlinuz"}
	modulePlaces = []string{"usr/lib/modules", "lib/modules"}
)

func openKernel(arch, dir, name string) (*Kernel, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", name, err)
	}
	defer root.Close()
	k := &Kernel{Arch: arch, Package: name, dir: dir}
	if k.Image, err = kernelImage(root.FS(), name); err != nil {
		return nil, err
	}
	if k.Version = path.Base(path.Dir(k.Image)); path.Dir(k.Image) == "boot" {
		_, k.Version, _ = strings.Cut(path.Base(k.Image), "-")
	}
	info, err := root.Stat(k.Image)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w; the folder must contain the file itself", name, err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxKernelImage {
		return nil, optionsf("kernel %s: %s: not a regular file of at most %d MiB", name, k.Image, maxKernelImage/mib)
	}
	k.Time = info.ModTime()
	k.Modules, err = k.findModules(root.FS())
	return k, err
}

// kernelImage returns the path of the only kernel image.
func kernelImage(files fs.FS, name string) (string, error) {
	for _, place := range imagePlaces {
		found, err := fs.Glob(files, place)
		if err != nil {
			return "", err
		}
		if len(found) > 1 {
			return "", optionsf("kernel %s: %d files %s, want 1; it must contain one kernel, so remove the others", name, len(found), place)
		}
		if len(found) == 1 {
			return found[0], nil
		}
	}
	return "", optionsf("kernel %s: no file boot/vmlinuz-VERSION; it must be a kernel package, or a folder with the files of one", name)
}

// findModules returns the folder of the kernel's modules. A kernel without modules has a list of
// its built-in ones there.
func (k *Kernel) findModules(files fs.FS) (string, error) {
	var others []string
	for _, place := range modulePlaces {
		entries, _ := fs.ReadDir(files, place) // not every package has both
		for _, e := range entries {
			if e.Name() != k.Version {
				others = append(others, e.Name())
			} else if _, err := fs.Stat(files, path.Join(place, k.Version, builtinList)); err == nil {
				return path.Join(place, k.Version), nil
			}
		}
	}
	if len(others) > 0 {
		return "", optionsf("kernel %s: no lib/modules/%s/%s, only modules of %s; the modules must be of the same version as the kernel", k.Package, k.Version, builtinList, strings.Join(others, ", "))
	}
	return "", optionsf("kernel %s: no lib/modules/%s/%s; if the modules are in another package, unpack both into one folder (dpkg-deb -x FILE.deb DIR) and name the folder", k.Package, k.Version, builtinList)
}

// builtinList is the list of the built-in modules, in the folder of the modules.
const builtinList = "modules.builtin"

// checkVersion compares the version that the kernel itself prints with that of its modules. Where
// they differ, the machine would find no modules.
func (k *Kernel) checkVersion() error {
	data, err := readKernel(k)
	if err != nil {
		return err
	}
	text, err := kernelVersion(bytes.NewReader(data), int64(len(data)), k.Arch)
	if err != nil {
		return fmt.Errorf("kernel %s: %w", k.Package, err)
	}
	if version, _, _ := strings.Cut(text, " "); version != k.Version {
		return optionsf("kernel %s: %s is Linux %.80q, but its name and its modules say %q; put kernel and modules of one build together", k.Package, k.Image, version, k.Version)
	}
	return nil
}

// read returns the content of a file below the folder.
func (k *Kernel) read(name string) ([]byte, error) {
	f, err := os.OpenInRoot(k.dir, name)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", k.Package, err)
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxKernelImage))
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
	data, err := k.read(k.Image)
	if err != nil {
		return nil, err
	}
	if err := bootfile.CheckKernel(bytes.NewReader(data), int64(len(data)), k.Arch); err != nil {
		return nil, fmt.Errorf("kernel %s: %s: %w: %w", k.Package, k.Image, err, cas.ErrCorrupt)
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
