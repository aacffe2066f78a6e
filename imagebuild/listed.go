package imagebuild

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// checkListed refuses an image that lists a package which Debian never had: whoever builds an image also writes its
// list. Each package must have the version, architecture and sha256 that trusted or one of Debian's signed lists on
// this machine names. The error wraps manifest.ErrUntrusted and names the first package.
func (b *Builder) checkListed(ctx context.Context, in, trusted Inputs) error {
	unknown := slices.DeleteFunc(slices.Clone(in), trusted.contains)
	for _, arch := range unknown.archs() {
		l, err := b.lists(ctx, arch)
		if err == nil {
			unknown, err = l.without(ctx, unknown)
		}
		if err != nil {
			return fmt.Errorf("packages of the image: not compared with Debian's lists: %w", err)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	more := ""
	if n := len(unknown) - 1; n > 0 {
		more = fmt.Sprintf(", and %d more", n)
	}
	p := unknown[0]
	return refusal.New(manifest.ErrUntrusted, "package %.80s %.80s (%s) with sha256 %s%s: not in a list of this machine's apt that Debian signs; "+
		"add a source of snapshot.debian.org of the image's date to apt, name a list that you trust with --lock, or do not trust the image",
		p.Name, p.Version, p.Arch, p.SHA256, more)
}

// contains reports whether the list has exactly this package.
func (in Inputs) contains(p Package) bool {
	return slices.ContainsFunc(in, func(q Package) bool { return q.content() == p.content() })
}

// content is the package without its path, which does not matter: the sha256 names the file.
func (p Package) content() Package {
	p.Path = ""
	return p
}

// archs returns the architectures whose lists name the packages. Those of Debian's architecture "all" are in the
// lists of every architecture, and firmware is taken from the host's.
func (in Inputs) archs() (all []string) {
	for _, p := range in {
		arch := p.Arch
		if arch == "all" {
			arch = hostArch
		}
		if !slices.Contains(all, arch) {
			all = append(all, arch)
		}
	}
	return all
}

// without returns the packages that Debian's lists do not have. It reads the lists themselves: apt-cache would also
// show packages of other archives, and those that somebody has installed from a file.
func (l lists) without(ctx context.Context, in Inputs) (Inputs, error) {
	files, err := l.signedByDebian(ctx)
	if err != nil {
		return nil, err
	}
	missing := map[Package]bool{}
	for _, p := range in {
		missing[p.content()] = true
	}
	for _, name := range files {
		err := fromTool(ctx, command("apt-helper", "cat-file", name), func(r io.Reader) error {
			return eachPackage(r, func(p Package) { delete(missing, p) })
		})
		if err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(slices.Clone(in), func(p Package) bool { return !missing[p.content()] }), nil
}

// signedByDebian returns the files of all of Debian's lists whose signature apt has checked, of every suite and
// component.
func (l lists) signedByDebian(ctx context.Context) (files []string, err error) {
	out, err := l.command("apt-get", "indextargets", "--format", "$(ORIGIN)|$(TRUSTED)|$(ARCHITECTURE)|$(FILENAME)", "Created-By: Packages").output(ctx)
	if err != nil {
		return nil, err
	}
	files = parseSigned(string(out), l.arch)
	if len(files) == 0 {
		return nil, notFoundf("apt sources of Debian for %s: none; add them to /etc/apt and run: apt-get update", l.arch)
	}
	return files, nil
}

// parseSigned returns the files of the lines ORIGIN|TRUSTED|ARCHITECTURE|FILENAME that are signed and Debian's.
func parseSigned(text, arch string) (files []string) {
	for line := range strings.Lines(text) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "Debian|yes|"+arch+"|")
		if ok && !slices.Contains(files, name) {
			files = append(files, name)
		}
	}
	return files
}

// maxListLine bounds a line of a Packages file in bytes.
const maxListLine = 1 << 20

// eachPackage reads a Packages file (deb-control(5)). The packages have no path.
func eachPackage(r io.Reader, visit func(Package)) error {
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxListLine)
	var p Package
	fields := map[string]*string{"Package": &p.Name, "Version": &p.Version, "Architecture": &p.Arch, "SHA256": &p.SHA256}
	for in.Scan() {
		name, value, _ := strings.Cut(in.Text(), ":")
		if field := fields[name]; field != nil {
			*field = strings.TrimSpace(value)
		}
		if len(in.Bytes()) == 0 {
			visit(p)
			p = Package{}
		}
	}
	visit(p)
	return in.Err()
}
