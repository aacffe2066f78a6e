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
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/manifest"
)

// ReleaseSpec is what a release is to say.
type ReleaseSpec struct {
	Repo          string // folder with root.json and N.targets.json
	Channel, Arch string
	Version       string
	Cmdline       string
	MinRAM        int64  // MiB, 0 to leave it unsaid
	Kernel        string // paths from here on; "" and nil for none
	Initramfs     string
	Rootfs        string
	DTBs          []string // become dtb/<base name>
	Job           string   // becomes job/<base name>, and the job to run
	Chunker       string
	Lifetime      time.Duration
	Keys          []Key
	Out           string
	Force         bool // replace a manifest at Out that others have signed, or give a used version string to other content
	Unchecked     bool // sign files whatever they are
	Now           time.Time
	Watch         Watch
}

// Release inspects and hashes the files, writes the release manifest to s.Out and signs it.
// A file that no machine could use wraps fs.ErrInvalid, one that is cut short cas.ErrCorrupt,
// unless s.Unchecked. The
// repository's root and targets must be valid; a key that the delegation does not list
// wraps manifest.ErrSignature, an unknown channel fs.ErrNotExist, and words outside
// the grammar fs.ErrInvalid, a manifest at s.Out that others have signed fs.ErrExist. All of it is checked before the files are read, which may
// take a while, and s.Out appears whole or not at all.
func Release(ctx context.Context, s ReleaseSpec) (Summary, error) {
	t, number, err := s.check()
	if err != nil {
		return Summary{}, err
	}
	r := manifest.Release{
		Repository: t.root.repository,
		Channel:    s.Channel, Arch: s.Arch, Version: s.Version, Number: number, Cmdline: s.Cmdline, MinRAM: s.MinRAM,
		SignedAt: s.Now, Expires: s.Now.Add(s.Lifetime),
	}
	if s.Job != "" {
		r.Job = "job/" + filepath.Base(s.Job)
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
	role, err := manifest.Encode(r)
	if err != nil {
		return Summary{}, invalid("release %q: %v", s.Version, err)
	}
	return s.signAndWrite(ctx, t, role)
}

// check refuses what can be refused without reading the files, and returns the number
// of the new release.
func (s ReleaseSpec) check() (*trust, int64, error) {
	if _, err := roleName(s.Channel, s.Arch); err != nil {
		return nil, 0, err
	}
	if err := s.checkWords(); err != nil {
		return nil, 0, err
	}
	return s.open()
}

// open opens the repository for a release that may be signed and written, and returns
// its number.
func (s ReleaseSpec) open() (*trust, int64, error) {
	role, err := roleName(s.Channel, s.Arch)
	if err != nil {
		return nil, 0, err
	}
	if err := s.checkOut(); err != nil {
		return nil, 0, err
	}
	t, err := openTrust(filepath.Join(s.Repo, RootName), s.Repo, true, s.Now)
	if err != nil {
		return nil, 0, err
	}
	d := &document{kind: manifest.KindRole, role: role, repository: t.root.repository, release: &manifest.Release{Channel: s.Channel, Arch: s.Arch}}
	if err := t.mayAllSign(d, s.Keys); err != nil {
		return nil, 0, err
	}
	newest, err := manifest.DirFetcher(s.Repo).Newest(role)
	return t, newest + 1, err
}

// checkOut refuses a name that could not be written an hour later, and one that holds
// anything but an older manifest: a slip must not cost a kernel, a key, or what somebody
// else has signed.
func (s ReleaseSpec) checkOut() error {
	path := s.Out
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return fmt.Errorf("manifest %s: its folder: %w; make it first", path, pathless(err))
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return invalid("manifest %s: is a directory; name a file", path)
	case err != nil || info.Mode().IsRegular() && info.Size() == 0:
		return nil
	case !info.Mode().IsRegular():
		return invalid("manifest %s: is not a regular file; name a file", path)
	}
	d, err := openDocument(path)
	if err != nil || d.kind != manifest.KindRole {
		return invalid("manifest %s: the file that is there is no release manifest; choose another name", path)
	}
	if other := d.signedBeside(s.Keys); other != "" && !s.Force {
		return because(fs.ErrExist, "manifest %s: release %q is there, with a signature by %.8s…, which would be lost; choose another name, or replace it with --force",
			path, d.release.Version, other)
	}
	return nil
}

// signedBeside is a key beside ours that has signed, "" when there is none.
func (d *document) signedBeside(ours []Key) string {
	for _, sig := range d.signatures {
		if !slices.ContainsFunc(ours, func(k Key) bool { id, err := k.ID(); return err == nil && id == sig.KeyID }) {
			return sig.KeyID
		}
	}
	return ""
}

// checkWords runs the words of the release through manifest's grammar, with a made-up
// artifact for each file.
func (s ReleaseSpec) checkWords() error {
	if s.Kernel == "" || s.Initramfs == "" {
		return invalid("release: a kernel and an initramfs are needed")
	}
	r := manifest.Release{
		Channel: s.Channel, Arch: s.Arch, Version: s.Version, Number: 1, Cmdline: s.Cmdline, MinRAM: s.MinRAM,
		SignedAt: s.Now, Expires: s.Now.Add(s.Lifetime),
	}
	for _, f := range s.files() {
		r.Artifacts = append(r.Artifacts, exampleArtifact(f.role, s.Chunker))
	}
	if _, err := manifest.Encode(r); err != nil {
		return invalid("release: %v", err)
	}
	return nil
}

// A roleFile is a file, its role in the release, and the flag that names it.
type roleFile struct{ role, flag, path string }

// files lists the artifacts in the order in which they are hashed.
func (s ReleaseSpec) files() []roleFile {
	files := []roleFile{{manifest.RoleKernel, "kernel", s.Kernel}, {manifest.RoleInitramfs, "initramfs", s.Initramfs}}
	if s.Rootfs != "" {
		files = append(files, roleFile{manifest.RoleRootfs, "rootfs", s.Rootfs})
	}
	for _, path := range s.DTBs {
		files = append(files, roleFile{"dtb/" + filepath.Base(path), "dtb", path})
	}
	if s.Job != "" {
		files = append(files, roleFile{"job/" + filepath.Base(s.Job), "job", s.Job})
	}
	return files
}

func (s ReleaseSpec) signAndWrite(ctx context.Context, t *trust, role *metadata.Metadata[metadata.TargetsType]) (Summary, error) {
	r, err := manifest.Decode(role, s.Channel, s.Arch)
	if err != nil {
		return Summary{}, err
	}
	name, err := roleName(s.Channel, s.Arch)
	if err != nil {
		return Summary{}, err
	}
	if err := s.unused(t, name, r); err != nil {
		return Summary{}, err
	}
	for _, k := range s.Keys {
		if _, err := manifest.Sign(role, k.signer); err != nil {
			return Summary{}, fmt.Errorf("key %s: %w", k.name, err)
		}
	}
	data, err := manifest.Bytes(manifest.KindRole, role)
	if err != nil {
		return Summary{}, err
	}
	if err := ctx.Err(); err != nil {
		return Summary{}, err
	}
	d, err := parseDocument(data)
	if err != nil {
		return Summary{}, err
	}
	d.path = s.Out
	if err := atomicfile.Write(s.Out, 0o644, data); err != nil {
		return Summary{}, fmt.Errorf("manifest %s: %w", s.Out, err)
	}
	sum := summarize(d, t)
	if err := (ShowSpec{Repo: s.Repo}).compare(&sum, d); err != nil {
		sum.Since, sum.Changes = "", nil // the release is written; an older one that is damaged changes nothing
	}
	return sum, nil
}

// exampleArtifact stands for a file that has not been read yet.
func exampleArtifact(role, chunker string) manifest.Artifact {
	return manifest.Artifact{
		Role: role, Length: 1, SHA256: strings.Repeat("0", 64), CID: cas.Sum(cid.Raw, nil), Chunker: chunker,
	}
}
