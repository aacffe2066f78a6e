package imagebuild

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootset"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

// A BootSet is a boot kernel and its initramfs that were written to a stick after its image (docs/RENEW.md). Its
// settings are those of the image, but root.json, modes and build time.
type BootSet struct {
	System
	bootset.ID
	Release   string    `json:"release"`
	State     string    `json:"state"` // in words
	BuildTime string    `json:"build_time"`
	RootSum   string    `json:"root_sha256"` // of its root.json
	Root      *RootKeys `json:"root"`

	root []byte
}

// errInterrupted is the error for a stick of which a renewal was cut.
var errInterrupted = errors.New("not complete: a renewal was cut; renew the stick again, or use it: it boots its older sets")

// maxRenewed is how many renewed sets a stick has at most for an architecture: that which is running, the last
// one that has started a release, and a new one.
const maxRenewed = 3

// renewedEntry reads the path of a boot entry.
func renewedEntry(name string) (n bootset.Name, ok bool) {
	file, ok := strings.CutPrefix(name, entriesPath+"/")
	if !ok {
		return n, false
	}
	return bootset.ParseName(file)
}

// setOf returns the folder of a renewed set and the architecture.
func setOf(folder string) (a architecture, id bootset.ID, ok bool) {
	i := slices.IndexFunc(architectures, func(a architecture) bool { return a.folder == path.Dir(folder) })
	if i < 0 {
		return a, id, false
	}
	id, ok = bootset.ParseID(path.Base(folder))
	return architectures[i], id, ok
}

func isRenewedFolder(name string) bool {
	_, _, ok := setOf(name)
	return ok
}

// isRenewed reports whether a file belongs to a renewed set.
func isRenewed(name string) bool {
	n, isEntry := renewedEntry(name)
	_, isFile := setFile(name)
	return isFile || isEntry && n.Number > 0
}

func setFile(name string) (folder string, ok bool) {
	folder, base := path.Dir(name), path.Base(name)
	return folder, isRenewedFolder(folder) && (base == bootset.KernelFile || base == bootset.InitramfsFile)
}

// splitRenewed returns the files of the image, and those of renewed sets.
func splitRenewed(files map[string]*fatFile) (built, renewed map[string]*fatFile) {
	built, renewed = map[string]*fatFile{}, map[string]*fatFile{}
	for name, f := range files {
		if isRenewed(name) {
			renewed[name] = f
		} else {
			built[name] = f
		}
	}
	return built, renewed
}

// readRenewed reads the renewed sets. Each must be complete, its folder must have the digest of its files, and its
// boot entries the text of those of the image.
func (c *Contents) readRenewed(built, renewed map[string]*fatFile) error {
	var folders []string
	for name := range renewed {
		if folder, ok := setFile(name); ok && !slices.Contains(folders, folder) {
			folders = append(folders, folder)
		}
	}
	slices.Sort(folders)
	counts := map[string]int{}
	for _, folder := range folders {
		a, id, _ := setOf(folder)
		s := BootSet{ID: id, System: System{Arch: a.Arch}}
		if err := c.readSet(a, folder, renewed, &s); err != nil {
			return fmt.Errorf("%s: %w", folder, err)
		}
		if err := c.readSetEntries(a, built, renewed, &s); err != nil {
			return err
		}
		if counts[a.Arch]++; counts[a.Arch] > maxRenewed {
			return badFAT("more than %d renewed boot sets", maxRenewed)
		}
		c.Renewed = append(c.Renewed, s)
	}
	slices.SortFunc(c.Renewed, func(a, b BootSet) int {
		return strings.Compare(fmt.Sprintf("%s %016d", b.Arch, a.Number), fmt.Sprintf("%s %016d", a.Arch, b.Number))
	})
	for name := range renewed {
		n, ok := renewedEntry(name)
		if ok && !slices.ContainsFunc(c.Renewed, func(s BootSet) bool { return s.Arch == n.Arch && s.Number == n.Number }) {
			return badFAT("%s: there is no boot set of this number", name)
		}
	}
	return nil
}

// readSet reads the files of a set.
func (c *Contents) readSet(a architecture, folder string, files map[string]*fatFile, s *BootSet) error {
	kernel, initramfs := files[folder+"/"+bootset.KernelFile], files[folder+"/"+bootset.InitramfsFile]
	if kernel == nil || initramfs == nil || !slices.ContainsFunc(c.systems(), func(is System) bool { return is.Arch == a.Arch }) {
		return fmt.Errorf("%w: %w", errInterrupted, cas.ErrCorrupt)
	}
	if err := s.readKernel(kernel, kernel.size); err != nil {
		return err
	}
	set, err := c.readNewInitramfs(a, initramfs, initramfs.size)
	if err != nil {
		return err
	}
	if s.ArchiveSum, err = sumOf(initramfs.reader()); err != nil {
		return err
	}
	if s.Digest != bootset.Digest(s.KernelSum, s.ArchiveSum) {
		return badFAT("damaged: the digest of its files is %s", bootset.Digest(s.KernelSum, s.ArchiveSum))
	}
	s.Initramfs, s.Init, s.Modules, s.BuildTime, s.root = initramfs.size, set.init, set.modules, set.text("build-time"), set.files["root.json"]
	root, err := describeRoot(s.root)
	sum := sha256.Sum256(s.root)
	s.Root, s.RootSum = &root, hex.EncodeToString(sum[:])
	return err
}

// readNewInitramfs reads an initramfs that renews that of the image: of the same role, channel and architecture, and
// with every mode of the boot menu.
func (c *Contents) readNewInitramfs(a architecture, r io.ReaderAt, size int64) (*settings, error) {
	set, err := readSettings(r, size)
	if err != nil {
		return nil, err
	}
	if set.text("role") != RoleBoot || set.text("channel") != c.Channel || set.arch != "" && set.arch != a.Arch {
		return nil, badArchive("role %.20q, channel %.40q, for %.20q; the image has %s, %s, %s", set.text("role"), set.text("channel"), set.arch, RoleBoot, c.Channel, a.Arch)
	}
	has, err := modes.Of(set.modes)
	if err != nil {
		return nil, badArchive("%v", err)
	}
	for _, e := range c.Entries {
		mode, err := has.Load(e.Boots)
		if _, file := set.modes[e.Boots]; err != nil || len(set.modes) > 0 && !file || mode.Tor && !set.tor {
			return nil, badArchive("it has no boot mode %.40q, which the boot menu has, or not what that needs", e.Boots)
		}
	}
	return set, nil
}

// readSetEntries compares the boot entries of a set with those of the image.
func (c *Contents) readSetEntries(a architecture, built, renewed map[string]*fatFile, s *BootSet) error {
	state := bootset.Set{ID: s.ID}
	for name, f := range renewed {
		n, ok := renewedEntry(name)
		if !ok || n.Number != s.Number || n.Arch != a.Arch {
			continue
		}
		of := built[entriesPath+"/"+a.entryName(n.Mode)]
		if of == nil || f.size > maxLoaderFile || of.size > maxLoaderFile {
			return badLoader("%s: the image has no entry of this mode, or it is too long", name)
		}
		text, err1 := io.ReadAll(f.reader())
		original, err2 := io.ReadAll(of.reader())
		if err1 != nil || err2 != nil {
			return badFAT("%s: cannot be read", name)
		}
		release, ok := bootset.ReleaseOf(string(text), string(original), a.Arch, s.ID)
		if !ok || s.Release != "" && s.Release != release {
			return badLoader("%s: other text than that of a renewed boot set", name)
		}
		s.Release, state.Names = release, append(state.Names, n)
	}
	if len(state.Names) == 0 {
		return fmt.Errorf("boot set %d: %w: %w", s.Number, errInterrupted, cas.ErrCorrupt)
	}
	s.State = state.Words()
	return nil
}

// compareRenewedRoots refuses a renewed set with another root.json than root or the one that follows it.
func (c *Contents) compareRenewedRoots(root []byte) error {
	trusted, err := manifest.ParseRoot(root)
	if err != nil {
		return err
	}
	for _, s := range c.Renewed {
		if bytes.Equal(s.root, root) || c.wasCompared(comparedReleases) {
			continue
		}
		if _, err := trusted.Next(s.root); err != nil {
			return fmt.Errorf("image %s: boot set %d: root.json version %d: %w; if roots between them are missing, add --repo", c.Image, s.Number, s.Root.Version, err)
		}
	}
	return nil
}

// CompareReleases compares each renewed set with the release of its number in a repository's folder. The root.json
// of the image is trusted: a chain of roots must lead from it to the newest one and to that of each set. Errors wrap
// manifest.ErrUntrusted, manifest.ErrRollback for a release that is older than the image, cas.ErrCorrupt for other files
// than the signed ones, or fs.ErrNotExist.
func (c *Contents) CompareReleases(ctx context.Context, repo string) error {
	if len(c.Renewed) == 0 {
		return nil
	}
	dir := manifest.DirFetcher(repo)
	root, targets, err := c.newestTargets(ctx, dir)
	if err != nil {
		return err
	}
	for _, s := range c.Renewed {
		if err := c.compareRelease(ctx, dir, root, targets, s); err != nil {
			return fmt.Errorf("image %s: boot set %d: %w", c.Image, s.Number, err)
		}
	}
	c.compared(comparedReleases)
	return nil
}

func (c *Contents) newestTargets(ctx context.Context, dir manifest.DirFetcher) (root, targets []byte, err error) {
	trusted, err := manifest.ParseRoot(c.root)
	if err != nil {
		return nil, nil, err
	}
	for _, file := range []struct {
		kind manifest.Kind
		to   *[]byte
	}{{manifest.KindRoot, &root}, {manifest.KindTargets, &targets}} {
		newest, err := dir.Newest(string(file.kind))
		if err != nil {
			return nil, nil, err
		}
		if *file.to, err = dir.Metadata(ctx, manifest.FileName(string(file.kind), newest), file.kind.Max()); err != nil {
			return nil, nil, err
		}
	}
	return root, targets, checkChain(ctx, trusted, root, dir)
}

// checkChain refuses a root to which no chain leads from the trusted one. Its date does not matter.
func checkChain(ctx context.Context, trusted *manifest.Root, root []byte, dir manifest.DirFetcher) error {
	d, err := manifest.Open(root)
	if err != nil {
		return err
	}
	return trusted.CheckRoot(ctx, d, dir, time.Time{})
}

func (c *Contents) compareRelease(ctx context.Context, dir manifest.DirFetcher, root, targets []byte, s BootSet) error {
	trusted, err := manifest.ParseRoot(c.root)
	if err != nil {
		return err
	}
	if err := checkChain(ctx, trusted, s.root, dir); err != nil {
		return err
	}
	role, err := manifest.RoleName(c.channelOf(), s.Arch)
	if err != nil {
		return err
	}
	data, err := dir.Metadata(ctx, manifest.FileName(role, s.Number), manifest.KindRole.Max())
	if err != nil {
		return err
	}
	release, err := manifest.CheckRole(root, targets, data, time.Time{})
	if err != nil {
		return err
	}
	kernel, _ := release.Artifact(manifest.RoleBootKernel)
	initramfs, _ := release.Artifact(manifest.RoleBootInitramfs)
	if release.Version != s.Release || kernel.SHA256 != s.KernelSum || initramfs.SHA256 != s.ArchiveSum {
		return badImage("release %.80q: other files, or the stick says another release, %.80q", release.Version, s.Release)
	}
	return c.checkNotOlder(release)
}

// checkNotOlder refuses the boot set of a release that was signed before the stick was built: the loader would prefer
// it to the newer one of the stick.
func (c *Contents) checkNotOlder(r manifest.Release) error {
	seconds, err := strconv.ParseInt(c.BuildTime, 10, 64)
	if err != nil {
		return err
	}
	if built := time.Unix(seconds, 0); r.SignedAt.Before(built) {
		return fmt.Errorf("release %.80q: signed %s, before the stick was built (%s): %w: its boot set is older", r.Version,
			r.SignedAt.UTC().Format(time.RFC3339), built.UTC().Format(time.RFC3339), manifest.ErrRollback)
	}
	return nil
}
