package receipt

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// A Chain says why a module could run on a machine with a release.
type Chain struct {
	Release   string `json:"release"`             // version
	Role      string `json:"role,omitempty"`      // of the module in the release; empty if it came with an order
	Submitter string `json:"submitter,omitempty"` // as the release names the key that signed the order
}

// CheckRelease compares a receipt with a release that the caller trusts. The receipt must name this release, the
// module must be one of its jobs or ordered by one of its submitters, and a submitter must be one of the release.
// A refusal wraps manifest.ErrUntrusted. It checks no signature: Verify does.
func (s Signed) CheckRelease(rel manifest.Release) (Chain, error) {
	run := s.Run
	if run.Release == nil {
		return Chain{}, untrusted(manifest.ErrUntrusted, "it names no release: the job was run from a file")
	}
	all := rel.All() // the machine may have taken an earlier one of the manifest
	i := slices.IndexFunc(all, func(r manifest.Release) bool { return nameOf(r).text() == run.Release.text() })
	if i < 0 {
		return Chain{}, untrusted(manifest.ErrUntrusted, "the machine ran release %s, and this is %s; name that one", run.Release.text(), nameOf(rel).text())
	}
	rel = all[i]
	c := Chain{Release: rel.Version}
	if run.Submitter != "" {
		key, _ := hex.DecodeString(run.Submitter)
		by, ok := rel.Submitter(key)
		if !ok {
			return Chain{}, untrusted(manifest.ErrUntrusted, "the job was ordered by key %.16s…, which is no submitter of release %s", run.Submitter, rel.Version)
		}
		c.Submitter = by.Name
	}
	for _, a := range rel.Artifacts {
		if strings.HasPrefix(a.Role, "job/") && a.SHA256 == run.Module.SHA256 && a.Length == run.Module.Length {
			c.Role = a.Role
		}
	}
	if c.Role == "" && c.Submitter == "" {
		return Chain{}, untrusted(manifest.ErrUntrusted, "module %.16s… is no job of release %s, and no submitter has ordered it: someone on the machine ran it", run.Module.SHA256, rel.Version)
	}
	return c, nil
}

func nameOf(rel manifest.Release) Release {
	return Release{rel.Channel, rel.Arch, rel.Version, rel.Number, rel.Repository, 0}
}

// text names a release for a person and for a comparison; a machine may not know its root.
func (r Release) text() string {
	text := fmt.Sprintf("%s of %s-%s, version %d", r.Version, r.Channel, r.Arch, r.Number)
	if r.Repository != "" {
		text += " in repository " + r.Repository
	}
	return text
}

// FindRelease returns the release that the receipt names from a folder of metadata, such as a repository or a
// mirror of it. rootJSON is trusted; N.root.json in the folder are followed to the newest one, and the newest
// N.targets.json lists the keys of the release. Dates are not checked: a receipt outlives its release. A refusal
// wraps manifest.ErrUntrusted or manifest.ErrMalformed, a missing file fs.ErrNotExist.
func (s Signed) FindRelease(ctx context.Context, rootJSON []byte, dir string) (manifest.Release, error) {
	named := s.Run.Release
	if named == nil {
		return manifest.Release{}, untrusted(manifest.ErrUntrusted, "it names no release: the job was run from a file")
	}
	name, err := manifest.RoleName(named.Channel, named.Arch)
	if err != nil {
		return manifest.Release{}, malformed("%v", err)
	}
	file := manifest.FileName(name, named.Number)
	role, err := manifest.DirFetcher(dir).Metadata(ctx, file, manifest.KindRole.Max())
	if errors.Is(err, fs.ErrNotExist) {
		return manifest.Release{}, refusal.New(fs.ErrNotExist, "receipt: no %s in %s, which is the release of the machine; name the folder of its repository with --repo", file, dir)
	}
	if err != nil {
		return manifest.Release{}, fmt.Errorf("receipt: %w", err)
	}
	rel, err := CheckManifest(ctx, rootJSON, dir, role)
	if err != nil {
		return manifest.Release{}, fmt.Errorf("receipt: %w", err)
	}
	return rel, nil
}

// CheckManifest judges a release manifest by a trusted root and a folder of metadata, as FindRelease does.
func CheckManifest(ctx context.Context, rootJSON []byte, dir string, role []byte) (manifest.Release, error) {
	root, err := newestRoot(ctx, rootJSON, manifest.DirFetcher(dir))
	if err != nil {
		return manifest.Release{}, err
	}
	newest, err := manifest.DirFetcher(dir).Newest("targets")
	if err != nil {
		return manifest.Release{}, err
	}
	if newest == 0 {
		return manifest.Release{}, refusal.New(fs.ErrNotExist, "repository %s: no N.targets.json, which lists the keys of releases; name the repository with --repo", dir)
	}
	targets, err := manifest.DirFetcher(dir).Metadata(ctx, manifest.FileName("targets", newest), manifest.KindTargets.Max())
	if err != nil {
		return manifest.Release{}, err
	}
	return manifest.CheckRole(root.Bytes(), targets, role, time.Time{})
}

// newestRoot follows the roots of a folder from a trusted one.
func newestRoot(ctx context.Context, rootJSON []byte, dir manifest.DirFetcher) (*manifest.Root, error) {
	root, err := manifest.ParseRoot(rootJSON)
	for err == nil {
		var data []byte
		data, err = dir.Metadata(ctx, manifest.FileName("root", root.Version()+1), manifest.MaxRoot)
		if errors.Is(err, fs.ErrNotExist) {
			return root, nil
		}
		if err == nil {
			root, err = root.Next(data)
		}
	}
	return nil, err
}
