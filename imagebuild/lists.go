package imagebuild

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/phaseboot/phaseboot/internal/file"
)

// lists are apt's package lists of one architecture. For the host's architecture they are the
// host's. For another one they are in the build cache, made of the host's Debian sources and
// keyrings: the host need not know the architecture, and its own lists stay as they are.
type lists struct {
	arch  string // Debian's name
	dir   string // "" for the host's lists
	index string // path of apt's index of the lists, which apt renews; "" for none
}

// hostArch is Debian's name of this machine's architecture, which Go names alike.
const hostArch = runtime.GOARCH

// foreignLists remembers the lists of other architectures.
type foreignLists struct {
	mu     sync.Mutex
	byArch map[string]lists
}

// lists returns the package lists of an architecture. Those of a foreign one are fetched when
// there are none yet for the host's lists as they are: "apt-get update" renews both.
func (b *Builder) lists(ctx context.Context, arch string) (lists, error) {
	if arch == hostArch {
		folder := filepath.Join(b.cache, "apt")
		return lists{arch: arch, index: filepath.Join(folder, "index-"+arch)}, file.FullDisk(os.MkdirAll(folder, 0o755))
	}
	b.foreign.mu.Lock()
	defer b.foreign.mu.Unlock()
	if l, ok := b.foreign.byArch[arch]; ok {
		return l, nil
	}
	_, sources, err := lists{arch: hostArch}.sources(ctx)
	if err != nil {
		return lists{}, err
	}
	text, err := deb822(sources)
	if err != nil {
		return lists{}, err
	}
	key := sha256.New()
	fmt.Fprintf(key, "lists 2\n%s\n", text)
	for _, s := range sources {
		release, err := s.releaseFile()
		if err != nil {
			return lists{}, err
		}
		fmt.Fprintf(key, "%x\n", sha256.Sum256(release))
	}
	dir, err := b.cached(fmt.Sprintf("apt/%s-%x", arch, key.Sum(nil)[:16]), func(dir string) error {
		defer b.progress.step("package lists of " + arch)()
		return lists{arch: arch, dir: dir}.fetch(ctx, text)
	})
	if err != nil {
		return lists{}, fmt.Errorf("package lists of %s: %w", arch, err)
	}
	if b.foreign.byArch == nil {
		b.foreign.byArch = map[string]lists{}
	}
	b.foreign.byArch[arch] = lists{arch: arch, dir: dir, index: filepath.Join(dir, "cache/pkgcache.bin")}
	return b.foreign.byArch[arch], nil
}

// fetch makes the folder with apt's state, and fetches the lists of the sources.
func (l lists) fetch(ctx context.Context, sources string) error {
	for _, name := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(l.dir, name), 0o755); err != nil {
			return file.FullDisk(err)
		}
	}
	if err := os.WriteFile(filepath.Join(l.dir, sourcesName), []byte(sources), 0o644); err != nil {
		return file.FullDisk(err)
	}
	if err := l.command("apt-get", "-q", "--error-on=any", "update").run(ctx); err != nil {
		return err
	}
	if found, err := filepath.Glob(filepath.Join(l.dir, "lists/*_Packages*")); err != nil || len(found) == 0 {
		return notFoundf("none on the mirrors of this machine's apt; use a mirror that has this architecture")
	}
	return nil
}

const sourcesName = "debian.sources"

// command returns a run of an apt tool that uses these lists.
func (l lists) command(name string, args ...string) *tool {
	return command(name, append(l.options(), args...)...)
}

// options returns apt's options for these lists: apt.conf(5). Without an index, each run of apt-cache
// takes a second to make one; apt writes none for ordinary users and in containers.
func (l lists) options() (args []string) {
	options := []string{"Dir::Cache::pkgcache=" + l.index, "Dir::Cache::srcpkgcache="}
	if l.dir != "" {
		options = append(
			options,
			"Dir::State="+l.dir, "Dir::State::lists="+filepath.Join(l.dir, "lists"), "Dir::State::status=/dev/null",
			"Dir::Cache="+filepath.Join(l.dir, "cache"),
			"Dir::Etc::SourceList="+filepath.Join(l.dir, sourcesName), "Dir::Etc::SourceParts=/dev/null",
			"APT::Architecture="+l.arch, "APT::Architectures="+l.arch,
			"APT::Sandbox::User=root", // apt's unprivileged user cannot write to this folder
			// apt-cache reads a compressed list from its start for each package
			"Acquire::GzipIndexes=false", "Acquire::Languages=none",
		)
	}
	for _, option := range options {
		args = append(args, "-o", option)
	}
	return args
}

// releaseFile returns the release file that the source's list belongs to, which Debian signs.
func (s source) releaseFile() ([]byte, error) {
	suite := strings.ReplaceAll(s.release, "/", "_")
	prefix, _, found := strings.Cut(s.list, "_dists_"+suite+"_")
	for _, name := range []string{"InRelease", "Release"} {
		if text, err := os.ReadFile(prefix + "_dists_" + suite + "_" + name); found && err == nil {
			return text, nil
		}
	}
	return nil, notFoundf("release file of %s: not in apt's lists; run: apt-get update", s.release)
}

// show returns those of the packages NAME or NAME=VERSION that the lists have, by NAME=VERSION. which is an
// option of apt-cache.
func (l lists) show(ctx context.Context, which string, names []string) (map[string]deb, error) {
	out, err := l.command("apt-cache", append([]string{"show", which}, names...)...).output(ctx)
	if bad := new(toolError); err != nil && !errors.As(err, &bad) { // apt-cache fails if one of them is unknown
		return nil, err
	}
	found := map[string]deb{}
	for _, stanza := range strings.Split(string(out), "\n\n") {
		d := parseStanza([]byte(stanza))
		d.lists = l
		found[d.Name+"="+d.Version] = d
	}
	return found, nil
}
