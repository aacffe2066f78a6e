package imagebuild

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

// A Package is one version of a Debian package, pinned by its content.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"` // Debian's name; "all" for every architecture
	SHA256  string `json:"sha256"`
	Path    string `json:"path"` // below the mirror's address, as in Debian's index
}

// Inputs are the packages that images are made of, sorted by name and architecture. A file
// inputs.lock and the file etc/phase/inputs of an initramfs have the form of Text.
type Inputs []Package

// MaxInputs bounds a list of inputs in bytes.
const MaxInputs = 1 << 20

var inputLine = regexp.MustCompile(`^([a-z0-9][a-z0-9+.-]+) ([A-Za-z0-9.+:~-]+) (all|amd64|arm64) ([0-9a-f]{64}) ([A-Za-z0-9][A-Za-z0-9+.,_~/%-]*\.deb)$`)

// ParseInputs reads the form of Text, with comments after "#" at the beginning of a line. An
// error wraps cas.ErrCorrupt.
func ParseInputs(text []byte) (Inputs, error) {
	bad := func(n int, format string, args ...any) error {
		return fmt.Errorf("inputs: line %d: %s: %w", n, fmt.Sprintf(format, args...), cas.ErrCorrupt)
	}
	if len(text) > MaxInputs {
		return nil, fmt.Errorf("inputs: more than %d bytes: %w", MaxInputs, cas.ErrCorrupt)
	}
	var in Inputs
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		if line = strings.TrimSuffix(line, "\n"); line == "" || line[0] == '#' {
			continue
		}
		m := inputLine.FindStringSubmatch(line)
		if m == nil || slices.Contains(strings.Split(m[5], "/"), "..") {
			return nil, bad(n, "%.80q: want NAME VERSION ARCH SHA256 PATH", line)
		}
		p := Package{m[1], m[2], m[3], m[4], m[5]}
		if len(in) > 0 && in[len(in)-1].compare(p) >= 0 {
			return nil, bad(n, "%s %s: repeated, or not in sorted order", p.Name, p.Arch)
		}
		in = append(in, p)
	}
	return in, nil
}

func (p Package) compare(q Package) int {
	return cmp.Or(cmp.Compare(p.Name, q.Name), cmp.Compare(p.Arch, q.Arch))
}

// Text returns one line NAME VERSION ARCH SHA256 PATH for each package.
func (in Inputs) Text() string {
	var w strings.Builder
	for _, p := range in {
		fmt.Fprintf(&w, "%s %s %s %s %s\n", p.Name, p.Version, p.Arch, p.SHA256, p.Path)
	}
	return w.String()
}

// find returns a package for an architecture.
func (in Inputs) find(name, arch string) (Package, bool) {
	i := slices.IndexFunc(in, func(p Package) bool { return p.Name == name && (p.Arch == arch || p.Arch == "all") })
	if i < 0 {
		return Package{}, false
	}
	return in[i], true
}

// kernel returns the package to which Debian's meta package of a kernel would lead.
func (in Inputs) kernel(p Platform) (Package, bool) {
	suffix := strings.TrimPrefix(p.kernel, "linux-image")
	i := slices.IndexFunc(in, func(q Package) bool {
		version, ok := strings.CutSuffix(strings.TrimPrefix(q.Name, "linux-image-"), suffix)
		return ok && q.Arch == p.debian && kernelABI.MatchString(version)
	})
	if i < 0 {
		return Package{}, false
	}
	return in[i], true
}

// kernelABI is the part of a kernel package's name between "linux-image-" and the flavour.
var kernelABI = regexp.MustCompile(`^[0-9][0-9a-z.+~]*(-[0-9]+)?$`)

// ErrPinned says that a build with pinned inputs is not possible: a package is gone from the
// mirrors, or has no line in the list. An error that wraps it names the package and the remedy.
var ErrPinned error = pinnedError{}

type pinnedError struct{}

func (pinnedError) Error() string        { return "pinned inputs" }
func (pinnedError) Is(target error) bool { return target == fs.ErrNotExist }

// A pin is the list from which a builder takes its packages, in place of apt's lists.
type pin struct {
	inputs Inputs
	name   string // of the list, for messages
	remedy string
	// complete says that a package is used only if the list has it: the list is that of an image.
	complete bool
}

// Pinned returns a builder that takes exactly the packages of a list. name and remedy are for the
// message about a package that is not there.
func (b *Builder) Pinned(in Inputs, name, remedy string) *Builder {
	again := b.at(b.epoch)
	again.pin = &pin{inputs: in, name: name, remedy: remedy}
	return again
}

// missing is the error for a package that the list does not have.
func (p *pin) missing(name, arch string) error {
	return refusal.New(ErrPinned, "package %s (%s): not in %s; %s", name, arch, p.name, p.remedy)
}

// find returns a package of the list.
func (p *pin) find(name, arch string) (deb, error) {
	q, ok := p.inputs.find(name, arch)
	if !ok {
		return deb{}, p.missing(name, arch)
	}
	return q.deb(), nil
}

// plan returns a plan of a root filesystem with the versions of the list. apt installs it, so apt's
// lists must have each package with the same content.
func (p *pin) plan(ctx context.Context, l lists, plan []string) ([]string, error) {
	pinned := make([]string, len(plan))
	for i, exact := range plan {
		name, _, _ := strings.Cut(exact, "=")
		d, err := p.find(name, l.arch)
		if err != nil {
			return nil, err
		}
		pinned[i] = d.Name + "=" + d.Version
	}
	known, err := l.show(ctx, "--all-versions", pinned)
	if err != nil {
		return nil, err
	}
	for _, exact := range pinned {
		name, version, _ := strings.Cut(exact, "=")
		if d, _ := p.find(name, l.arch); known[exact].SHA256 != d.SHA256 {
			return nil, p.gone(name, version, l.arch)
		}
	}
	return pinned, nil
}

// gone is the error for a package that cannot be downloaded any more.
func (p *pin) gone(name, version, arch string) error {
	return refusal.New(ErrPinned, "package %s %s (%s): gone from the mirrors of this machine's apt; %s", name, version, arch, p.remedy)
}

func (p Package) deb() deb {
	return deb{Name: p.Name, Version: p.Version, Arch: p.Arch, SHA256: p.SHA256, File: filepath.Base(p.Path), pool: p.Path}
}

// packageOf is the reverse of Package.deb.
func packageOf(d deb) Package {
	return Package{d.Name, d.Version, d.Arch, d.SHA256, d.pool}
}

// used collects the packages that one image is made of.
type used struct {
	mu   sync.Mutex
	debs Inputs
}

func (u *used) add(d deb) {
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.debs = u.debs.with(packageOf(d))
}

// with returns the list with one more package.
func (in Inputs) with(p Package) Inputs {
	i, found := slices.BinarySearchFunc(in, p, Package.compare)
	if found {
		return in
	}
	return slices.Insert(slices.Clone(in), i, p)
}

// recording returns a builder that collects the packages it takes.
func (b *Builder) recording() (*Builder, *used) {
	again := b.at(b.epoch)
	again.used = &used{}
	return again, again.used
}

// fetchPinned downloads packages of the list by their paths on the mirrors of this machine's apt,
// which need not know these versions any more.
func (b *Builder) fetchPinned(ctx context.Context, debs []deb) error {
	bases, err := b.mirrors(ctx)
	if err != nil {
		return err
	}
	tmp, clean, err := b.tempDir()
	if err != nil {
		return err
	}
	defer clean()
	for _, d := range debs {
		done := b.progress.step("download " + d.File)
		err := b.fetchPath(ctx, d, bases, filepath.Join(tmp, d.File))
		done()
		if err != nil {
			return err
		}
		if err := b.storeDebs([]string{filepath.Join(tmp, d.File)}, []deb{d}); err != nil {
			return err
		}
	}
	return nil
}

// fetchPath downloads a package from the first mirror that has it. A mirror that cannot be reached
// does not say that the package is gone.
func (b *Builder) fetchPath(ctx context.Context, d deb, bases []string, out string) error {
	var unreachable error
	for _, base := range bases {
		// apt would warn that its unprivileged user cannot write to this folder
		err := command("apt-helper", "-o", "APT::Sandbox::User=root", "download-file", strings.TrimSuffix(base, "/")+"/"+d.pool, out, "SHA256:"+d.SHA256).run(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("package %s: %w", d.File, ctx.Err())
		case errors.Is(err, cas.ErrUnreachable):
			unreachable = fmt.Errorf("package %s: %w; check the network", d.File, err)
		}
		os.Remove(out)
	}
	if unreachable != nil {
		return unreachable
	}
	return b.pin.gone(d.Name, d.Version, d.Arch)
}

// mirrors returns the addresses of this machine's Debian mirrors, of all suites.
func (b *Builder) mirrors(ctx context.Context) (bases []string, err error) {
	_, sources, err := lists{arch: hostArch}.sources(ctx)
	for _, s := range sources {
		if !slices.Contains(bases, s.uri) {
			bases = append(bases, s.uri)
		}
	}
	return bases, err
}
