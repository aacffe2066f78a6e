package repo

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// PublishedReleases lists the releases that the timestamp names. Signatures are checked,
// dates are not.
func (r *Repo) PublishedReleases(ctx context.Context) ([]manifest.Release, error) {
	return manifest.Published(ctx, r.files(), r.RootData)
}

var roleFile = regexp.MustCompile(`^([1-9][0-9]{0,15})\.([a-z0-9_-]+-[a-z0-9_]+)\.json$`)

// Releases decodes all release manifests in a repository's folder, by channel and
// architecture, the newest first. Their signatures were checked when they were added.
func Releases(ctx context.Context, dir string) ([]manifest.Release, error) {
	r, err := Open(ctx, dir)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("repository: %w", err)
	}
	var releases []manifest.Release
	for _, e := range entries {
		name := roleFile.FindStringSubmatch(e.Name())
		if name == nil {
			continue
		}
		data, err := r.read(ctx, e.Name(), manifest.KindRole)
		if err != nil {
			return nil, err
		}
		d, err := manifest.Open(data)
		if err == nil && d.Role() != name[2] {
			err = d.CheckName(e.Name())
		}
		if err != nil {
			return nil, fmt.Errorf("repository %s: %s: %w", dir, e.Name(), err)
		}
		if n, err := strconv.ParseInt(name[1], 10, 64); err != nil || n != d.Version() {
			return nil, fmt.Errorf("repository %s: %s: says version %d: %w", dir, e.Name(), d.Version(), cas.ErrCorrupt)
		}
		releases = append(releases, *d.Release())
	}
	slices.SortFunc(releases, func(a, b manifest.Release) int {
		return cmp.Or(strings.Compare(a.Channel, b.Channel), strings.Compare(a.Arch, b.Arch), cmp.Compare(b.Number, a.Number))
	})
	return releases, nil
}

// Newest returns the newest releases of each channel and architecture that have n different contents,
// all for 0. A manifest that was signed again, for more machines or a later date, has the content of
// the one before, and does not count.
func Newest(releases []manifest.Release, n int) []manifest.Release {
	if n == 0 {
		return releases
	}
	contents := make(contentSet)
	return slices.DeleteFunc(slices.Clone(releases), func(r manifest.Release) bool { return contents.add(r) > n })
}

// Contents counts the different contents of the releases of each channel and architecture.
func Contents(releases []manifest.Release) (n int) {
	contents := make(contentSet)
	for _, r := range releases {
		contents.add(r)
	}
	for _, list := range contents {
		n += len(list)
	}
	return n
}

// A contentSet has the contents of each channel and architecture.
type contentSet map[string][]string

// add returns how many contents the channel of r has with that of r.
func (s contentSet) add(r manifest.Release) int {
	channel, content := r.Channel+"/"+r.Arch, r.Content()
	if !slices.Contains(s[channel], content) {
		s[channel] = append(s[channel], content)
	}
	return len(s[channel])
}

// Artifacts yields the artifacts of releases, and of the earlier releases beside each, with the release that has them.
func Artifacts(releases ...manifest.Release) iter.Seq2[manifest.Release, manifest.Artifact] {
	return func(yield func(manifest.Release, manifest.Artifact) bool) {
		for _, published := range releases {
			for _, r := range published.All() {
				for _, a := range r.Artifacts {
					if !yield(r, a) {
						return
					}
				}
			}
		}
	}
}

// Contains reports whether a list has the same version of the same channel and architecture.
func Contains(list []manifest.Release, r manifest.Release) bool {
	return slices.ContainsFunc(list, func(k manifest.Release) bool {
		return k.Channel == r.Channel && k.Arch == r.Arch && k.Number == r.Number
	})
}

// SignedManifest returns the manifest of a release. The release keys of some root and
// targets of the repository must have signed it; the newest are tried first.
func (r *Repo) SignedManifest(ctx context.Context, release manifest.Release) ([]byte, error) {
	name, err := manifest.RoleName(release.Channel, release.Arch)
	if err != nil {
		return nil, err
	}
	data, err := r.read(ctx, manifest.FileName(name, release.Number), manifest.KindRole)
	if err != nil {
		return nil, err
	}
	newest, err := r.files().Newest(metadata.TARGETS)
	if err != nil {
		return nil, fmt.Errorf("repository: %w", err)
	}
	refusal := fmt.Errorf("repository %s: no targets.json in it: %w", r.Dir, fs.ErrNotExist)
	for v := newest; v > max(0, newest-lookBack); v-- {
		err := r.signedUnder(ctx, v, data)
		if err == nil || ctx.Err() != nil {
			return data, ctx.Err()
		}
		if v == newest {
			refusal = fmt.Errorf("repository %s: %w", r.Dir, err)
		}
	}
	return nil, refusal
}

// signedUnder checks a manifest against one version of the targets and the roots that
// signed those targets.
func (r *Repo) signedUnder(ctx context.Context, version int64, role []byte) error {
	targets, err := r.read(ctx, manifest.FileName(metadata.TARGETS, version), manifest.KindTargets)
	if err != nil {
		return err
	}
	refusal := fmt.Errorf("%d.targets.json: no root of the repository lists its keys: %w", version, manifest.ErrSignature)
	for _, root := range slices.Backward(r.roots) {
		if root.CheckSigned(manifest.KindTargets, targets) != nil {
			continue
		}
		data := r.rootFiles[manifest.FileName(metadata.ROOT, root.Version())]
		if _, refusal = manifest.CheckRole(data, targets, role, anyDate); refusal == nil {
			return nil
		}
	}
	return refusal
}
