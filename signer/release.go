package signer

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/signer/key"
)

// ManifestSpec says which channel gets a release, who signs its manifest, and where it is written.
type ManifestSpec struct {
	Repo          string // folder with root.json and N.targets.json
	Channel, Arch string
	Lifetime      time.Duration
	Keys          []key.Key // of the channel
	Out           string
	Submitters    []manifest.Submitter // for a release that is signed again, nil keeps its own, and an empty list removes them
	Rollout       Conditions
	Force         bool // replace a manifest at Out that other keys have signed or that is not published, reuse a version string for other content, and skip a damaged newest manifest
	Now           time.Time
}

// ReleaseSpec is the content of a release.
type ReleaseSpec struct {
	ManifestSpec
	Version       string
	Cmdline       string
	MinRAM        int64  // MiB, 0 for no requirement
	Bless         int64  // seconds that the target has to bless its start, 0 to ask for no blessing
	Kernel        string // this and the following are paths; "" and nil for none
	Initramfs     string
	Rootfs        string
	DTBs          []string // become dtb/<base name>
	BootKernel    string   // the boot set, which renews sticks: this and the next, or none
	BootInitramfs string
	Job           string // becomes job/<base name>, and the job to run
	Chunker       string
	Unchecked     bool // do not inspect the files
	SecureBoot
	Watch Watch
}

// Release inspects and hashes the files, writes the release manifest to s.Out and signs it. A file
// that no machine can use wraps fs.ErrInvalid and a truncated one cas.ErrCorrupt, unless
// s.Unchecked. The repository's root and targets must be valid. A key that the channel does not
// list wraps manifest.ErrSignature, an unknown channel fs.ErrNotExist, text outside the grammar
// fs.ErrInvalid, a manifest at s.Out that other keys have signed, or that is not published, fs.ErrExist. These are checked
// before the files are read. s.Out is written whole or not at all, after the kernel of s.SecureBoot.
func Release(ctx context.Context, s ReleaseSpec) (Summary, error) {
	repo, number, err := s.check()
	if err != nil {
		return Summary{}, err
	}
	if s.Signer != nil {
		if err := s.signKernel(ctx); err != nil {
			return Summary{}, err
		}
	}
	r := s.release(repo.root.Repository(), number)
	if err := s.carry(repo, &r); err != nil {
		return Summary{}, err
	}
	files, err := s.openInputs()
	if err != nil {
		return Summary{}, err
	}
	defer files.close()
	for _, f := range files {
		a, err := hashFile(ctx, f, s.Chunker, s.Watch)
		if err != nil {
			return Summary{}, err
		}
		r.Artifacts = append(r.Artifacts, a)
	}
	return s.signAndWrite(ctx, repo, r)
}

// release is the new release without its artifacts.
func (s ReleaseSpec) release(repository string, number int64) manifest.Release {
	r := manifest.Release{
		Repository: repository, Channel: s.Channel, Arch: s.Arch, Version: s.Version, Number: number,
		Cmdline: s.Cmdline, MinRAM: s.MinRAM, Bless: s.Bless, SignedAt: s.Now, Expires: s.Now.Add(s.Lifetime), Submitters: s.Submitters,
	}
	if s.Job != "" {
		r.Job = jobRole(s.Job)
	}
	return r
}

func jobRole(path string) string { return "job/" + filepath.Base(path) }

// check does all checks that do not read the files. It returns the repository and the number of the
// new release.
func (s ReleaseSpec) check() (*repository, int64, error) {
	if _, err := roleName(s.Channel, s.Arch); err != nil {
		return nil, 0, err
	}
	if err := s.checkText(); err != nil {
		return nil, 0, err
	}
	return s.open()
}

// open opens the repository, checks that s.Keys may sign the channel and that s.Out may be written,
// and returns the number of the new release.
func (s ManifestSpec) open() (*repository, int64, error) {
	role, err := roleName(s.Channel, s.Arch)
	if err != nil {
		return nil, 0, err
	}
	if err := s.checkOut(); err != nil {
		return nil, 0, err
	}
	r, err := openRepository(filepath.Join(s.Repo, RootName), s.Repo, true, s.Now)
	if err != nil {
		return nil, 0, err
	}
	listed, err := r.keysOf(manifest.KindRole, role)
	if err != nil {
		return nil, 0, err
	}
	if err := checkKeys(role, listed, s.Keys); err != nil {
		return nil, 0, err
	}
	newest, err := manifest.DirFetcher(s.Repo).Newest(role)
	return r, newest + 1, err
}

// checkOut refuses a path that cannot be written, and a file there that is not a release manifest,
// or one that another key has signed: a mistyped path must not destroy a kernel, a key or a
// signature.
func (s ManifestSpec) checkOut() error {
	path := s.Out
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return fmt.Errorf("manifest %s: its folder: %w; make it first", path, file.Pathless(err))
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return refusal.Invalid("manifest %s: is a directory; name a file", path)
	case err != nil || info.Mode().IsRegular() && info.Size() == 0:
		return nil
	case !info.Mode().IsRegular():
		return refusal.Invalid("manifest %s: is not a regular file; name a file", path)
	}
	d, err := openDocument(path)
	if err != nil || d.Kind() != manifest.KindRole {
		return refusal.Invalid("manifest %s: the file there is not a release manifest; choose another name", path)
	}
	if other := d.signedByOthers(s.Keys); other != "" && !s.Force {
		return refusal.New(fs.ErrExist, "manifest %s: release %q is there, with a signature by %.8s…, which would be lost; choose another name, or replace it with --force",
			path, d.Release().Version, other)
	}
	return nil
}

// signedByOthers returns the ID of a key that has signed d and is not one of ours, "" when there is
// none.
func (d *document) signedByOthers(ours []key.Key) string {
	for _, id := range d.SignaturesFor(nil).Unlisted {
		if !slices.ContainsFunc(ours, func(k key.Key) bool { return k.ID() == id }) {
			return id
		}
	}
	return ""
}

// checkText checks the text fields of the release by the grammar of manifest, with an example
// artifact for each file.
func (s ReleaseSpec) checkText() error {
	if s.Kernel == "" || s.Initramfs == "" {
		return refusal.Invalid("release: no kernel or no initramfs; give --kernel and --initramfs")
	}
	if (s.BootKernel == "") != (s.BootInitramfs == "") {
		return refusal.Invalid("release: a boot set is a kernel and an initramfs; give --boot-kernel and --boot-initramfs, or none of them")
	}
	r := s.release("", 1)
	for _, f := range s.files() {
		r.Artifacts = append(r.Artifacts, exampleArtifact(f.role, s.Chunker))
	}
	if _, err := manifest.Encode(r); err != nil {
		return refusal.Invalid("release: %v", err)
	}
	return nil
}

// A roleFile is a file, its role in the release, and the flag that names it.
type roleFile struct{ role, flag, path string }

// files lists the artifacts in the order in which they are hashed.
func (s ReleaseSpec) files() []roleFile {
	files := []roleFile{s.kernelFile(), {manifest.RoleInitramfs, "initramfs", s.Initramfs}}
	if s.Rootfs != "" {
		files = append(files, roleFile{manifest.RoleRootfs, "rootfs", s.Rootfs})
	}
	for _, path := range s.DTBs {
		files = append(files, roleFile{"dtb/" + filepath.Base(path), "dtb", path})
	}
	if s.Job != "" {
		files = append(files, roleFile{jobRole(s.Job), "job", s.Job})
	}
	if s.BootKernel != "" {
		files = append(files, roleFile{manifest.RoleBootKernel, "boot-kernel", s.BootKernel}, roleFile{manifest.RoleBootInitramfs, "boot-initramfs", s.BootInitramfs})
	}
	return files
}

// signAndWrite encodes a release, signs it with s.Keys and writes it to s.Out.
func (s ManifestSpec) signAndWrite(ctx context.Context, r *repository, release manifest.Release) (Summary, error) {
	role, err := manifest.Encode(release)
	if err != nil {
		return Summary{}, refusal.Invalid("release %q: %v", release.Version, err)
	}
	m, err := manifest.NewDocument(manifest.KindRole, role)
	if err != nil {
		return Summary{}, err
	}
	d := &document{m, s.Out}
	if err := s.checkUnused(r, d); err != nil {
		return Summary{}, err
	}
	if err := d.sign(ctx, s.Keys...); err != nil {
		return Summary{}, err
	}
	if err := atomicfile.Write(s.Out, 0o644, d.Data()); err != nil {
		return Summary{}, d.fail(err)
	}
	sum := summarize(d, r)
	if err := (ShowSpec{Repo: s.Repo}).compare(&sum, d); err != nil {
		sum.Since, sum.Changes = "", nil // the release is written; a damaged older one is not an error
	}
	return sum, nil
}

// exampleArtifact is a valid artifact in place of a file that was not read yet.
func exampleArtifact(role, chunker string) manifest.Artifact {
	return manifest.Artifact{
		Role: role, Length: 1, SHA256: strings.Repeat("0", 64), CID: cas.Sum(cid.Raw, nil), Chunker: chunker,
	}
}
