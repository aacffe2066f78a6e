package imagebuild

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/manifest"
)

// Paths of Tor in the boot initramfs.
const (
	torPath   = "bin/tor"
	torrcPath = "etc/tor/torrc"
	// maxTorrc bounds a torrc in bytes.
	maxTorrc = 64 << 10
)

// addTor adds Debian's tor with its shared libraries, and the torrc.
func (b *Builder) addTor(ctx context.Context, in Initramfs, a *archive) error {
	p := in.Platform
	d, err := b.resolve(ctx, "tor", p.debian)
	if err != nil {
		return err
	}
	dir, err := b.unpack(ctx, d)
	if err != nil {
		return err
	}
	file, err := firstFile(dir, "usr/sbin/tor", "usr/bin/tor")
	if err != nil {
		return err
	}
	program, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	a.file(torPath, program, 0o755)
	if len(in.Torrc) > 0 {
		a.file(torrcPath, in.Torrc, 0o644)
	}
	return b.addLibraries(ctx, p, a, d, program)
}

// addLibraries adds the shared libraries of a program, and its dynamic linker. It looks for them in the packages
// that the program's package depends on, and unpacks no more of them than it needs.
func (b *Builder) addLibraries(ctx context.Context, p Platform, a *archive, d deb, program []byte) error {
	interpreter, wanted, err := linked(program)
	if err != nil {
		return fmt.Errorf("package %s: %w", d.Name, err)
	}
	wanted = append(wanted, path.Base(interpreter))
	queue, err := b.libraries(ctx, d)
	if err != nil {
		return err
	}
	packages := libraryPackages{b: b, p: p, queue: queue}
	for i := 0; i < len(wanted); i++ { // it grows
		name := wanted[i]
		data, err := packages.read(ctx, name)
		if err != nil {
			return fmt.Errorf("package %s: %w", d.Name, err)
		}
		if name == path.Base(interpreter) {
			a.file(strings.TrimPrefix(interpreter, "/"), data, 0o755)
			continue
		}
		a.file("lib/"+name, data, 0o644)
		_, more, err := linked(data)
		if err != nil {
			return fmt.Errorf("library %s: %w", name, err)
		}
		for _, m := range more {
			if !slices.Contains(wanted, m) {
				wanted = append(wanted, m)
			}
		}
	}
	return nil
}

// linked returns the path of the dynamic linker of an ELF file, "" for a library, and the libraries that it needs.
func linked(data []byte) (interpreter string, libraries []string, err error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return "", nil, fmt.Errorf("not an ELF file: %w", cas.ErrCorrupt)
	}
	for _, part := range f.Progs {
		if part.Type != elf.PT_INTERP || part.Filesz > 256 {
			continue
		}
		text := make([]byte, part.Filesz)
		if _, err := part.ReadAt(text, 0); err != nil {
			return "", nil, fmt.Errorf("ELF interpreter: %w", cas.ErrCorrupt)
		}
		interpreter = path.Clean(strings.TrimRight(string(text), "\x00"))
	}
	libraries, err = f.ImportedLibraries()
	return interpreter, libraries, err
}

// libraryPackages are the packages of a program's libraries. read unpacks one after the other, the
// program's own dependencies first.
type libraryPackages struct {
	b       *Builder
	p       Platform
	queue   []string // names of packages, in the order in which they are unpacked
	next    int
	folders []string // of the unpacked ones
}

// read returns the content of a shared library by its file name.
func (l *libraryPackages) read(ctx context.Context, name string) ([]byte, error) {
	for i := 0; ; i++ {
		if i == len(l.folders) {
			more, err := l.unpackNext(ctx)
			if err != nil {
				return nil, err
			}
			if !more {
				return nil, notFoundf("library %.60q: in none of the packages that it depends on", name)
			}
		}
		for _, dir := range []string{"lib", "usr/lib", "lib64", "usr/lib64", "lib/*-linux-gnu", "usr/lib/*-linux-gnu"} {
			found, err := filepath.Glob(filepath.Join(l.folders[i], dir, name))
			if err != nil || len(found) == 0 {
				continue
			}
			if data, err := os.ReadFile(found[0]); err == nil { // lib64 has an absolute link
				return data, nil
			}
		}
	}
}

// unpackNext unpacks the next package. It reports false if there is none.
func (l *libraryPackages) unpackNext(ctx context.Context) (bool, error) {
	if l.next == len(l.queue) {
		return false, nil
	}
	d, err := l.b.resolve(ctx, l.queue[l.next], l.p.debian)
	if err != nil {
		return false, err
	}
	l.next++
	dir, err := l.b.unpack(ctx, d)
	if err != nil {
		return false, err
	}
	l.folders = append(l.folders, dir)
	more, err := l.b.libraries(ctx, d)
	for _, name := range more {
		if !slices.Contains(l.queue, name) {
			l.queue = append(l.queue, name)
		}
	}
	return true, err
}

var libraryName = regexp.MustCompile(`^(lib|zlib)[a-z0-9+.-]+$`)

// libraries returns the packages of shared libraries that a package depends on. A list of inputs does
// not have dependencies, so they are read from the package.
func (b *Builder) libraries(ctx context.Context, d deb) ([]string, error) {
	if b.pin != nil {
		file, err := b.download(ctx, d)
		if err != nil {
			return nil, err
		}
		control, err := readControl(ctx, file)
		if err != nil {
			return nil, err
		}
		d.Depends = control.field("Depends")
	}
	return d.libraries(), nil
}

func (d deb) libraries() (names []string) {
	for _, clause := range strings.Split(d.Depends, ",") {
		fields := strings.Fields(strings.Split(clause, "|")[0])
		if len(fields) == 0 {
			continue
		}
		if name, _, _ := strings.Cut(fields[0], ":"); libraryName.MatchString(name) {
			names = append(names, name)
		}
	}
	return names
}

// torOptions are options of a torrc that the boot sets, or that name a file that the image does not have.
var torOptions = []string{
	"datadirectory", "socksport", "controlport", "controlsocket", "log", "runasdaemon", "clientonly", "user", "pidfile", "%include",
	"clienttransportplugin", "hiddenservicedir", "orport", "dirport",
}

// checkTor refuses a mode, a command line or a torrc that does not fit an image with or without Tor.
func (in Initramfs) checkTor(mode, cmdline string) error {
	if !in.WithTor && len(in.Torrc) > 0 {
		return optionsf("torrc: the image has no Tor; add --with-tor")
	}
	if err := checkTorrc(in.Torrc); err != nil {
		return err
	}
	if in.WithTor {
		return nil
	}
	args := bootargs.Parse(cmdline)
	for _, name := range append(in.Modes.Own(), mode, args.Mode) {
		if m, err := in.Modes.Load(name); err == nil && m.Tor {
			return optionsf("boot mode %s: the image has no Tor; add --with-tor", name)
		}
	}
	proxy, _ := url.Parse(args.Proxy) // cannot fail: Parse has accepted it
	if err := bootargs.CheckOnion(args.Mirrors, proxy, "add --with-tor, and boot in mode tor"); err != nil {
		return optionsf("cmdline: %v", err)
	}
	return nil
}

// checkTorrc refuses options that the machine would not obey, so that a person learns it before a boot.
func checkTorrc(text []byte) error {
	if len(text) > maxTorrc {
		return optionsf("torrc: more than %d bytes", maxTorrc)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\n' && r != '\r' && r != '\t' }) {
			return optionsf("torrc: %.60q: not a text", line)
		}
		if option := strings.TrimLeft(fields[0], "+/"); slices.Contains(torOptions, strings.ToLower(option)) {
			return optionsf("torrc: %.60q: the machine sets it, or cannot use it; remove the line", option)
		}
	}
	return nil
}

// onionWarning returns a warning about mirrors of root.json that an image without Tor cannot reach, "" if there
// are none.
func (in Initramfs) onionWarning() string {
	root, err := manifest.ParseRoot(in.Root)
	if in.WithTor || err != nil {
		return ""
	}
	err = bootargs.CheckOnion(root.Discovery().HTTPS, nil, "to use it, add --with-tor")
	if err == nil {
		return ""
	}
	return "warning: root.json: " + err.Error()
}
