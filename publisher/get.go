package publisher

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/manifest"
)

// ManifestFile is the name under which Get writes the release manifest.
const ManifestFile = "release.json"

// GetOptions name a release of a repository and where its files go.
type GetOptions struct {
	Store, Repo string
	Channel     string
	Arch        string       // "" where the channel has one architecture
	Release     string       // its version string, "" for any
	Version     int64        // its role version, 0 for any; without both, the published release
	Role        string       // one artifact; "" for all, and the manifest beside them
	Out         string       // folder, made when missing
	Log         *slog.Logger // nil: silent
}

// Gotten says what Get wrote, and what was there.
type Gotten struct {
	manifest.Release
	Published bool      `json:"published"` // it is the one that machines boot now
	Files     []GotFile `json:"files"`
}

// A GotFile is one file of a release that Get wrote or found.
type GotFile struct {
	Role   string `json:"role"` // "" for the manifest
	Path   string `json:"path"`
	Length int64  `json:"length"`
	Kept   bool   `json:"kept,omitempty"` // it was there already, byte for byte, and is untouched
}

// Get writes the artifacts of a release to files that are named by their roles, as phase-sign
// release and add take them. The manifest must be signed by the release keys of the
// repository, those of today or of an earlier root and targets; dates are not judged. Each
// file has its name only when its length, its blocks and its sha256 are those of the manifest.
// A folder never holds files of two releases: one that has a file of another is refused before
// anything is written, and an error removes what was written before it.
//
// Errors wrap fs.ErrNotExist for a release that is not there, or that gc took;
// cas.ErrCorrupt for a store that lost blocks; manifest.ErrSignature for a manifest that no
// keys of the repository signed; fs.ErrExist for a file of another release in the folder.
func Get(ctx context.Context, o GetOptions) (Gotten, error) {
	r, err := openRepo(ctx, o.Repo)
	if err != nil {
		return Gotten{}, err
	}
	release, published, err := r.pick(ctx, o)
	if err != nil {
		return Gotten{}, err
	}
	data, err := r.signedOnce(ctx, release)
	if err != nil {
		return Gotten{}, err
	}
	store, err := openStore(o.Store, o.Log)
	if err != nil {
		return Gotten{}, err
	}
	defer store.Close()
	got := Gotten{Release: release, Published: published, Files: []GotFile{}}
	err = got.write(ctx, o, store, data)
	if errors.Is(err, fs.ErrNotExist) {
		err = r.lostOr(ctx, o.Store, store, fmt.Errorf("release %q: the store does not have it whole, an earlier gc may have taken it: %w", release.Version, err))
	}
	return got, err
}

// pick finds the release that the options name.
func (r *repo) pick(ctx context.Context, o GetOptions) (found manifest.Release, published bool, err error) {
	all, err := keptReleases(ctx, r.dir, 0)
	if err != nil {
		return found, false, err
	}
	now, err := r.publishedReleases(ctx)
	if err != nil && len(now) == 0 && !errors.Is(err, fs.ErrNotExist) {
		return found, false, err
	}
	is := func(k manifest.Release) bool { return slices.ContainsFunc(now, sameAs(k)) }
	all = slices.DeleteFunc(all, func(k manifest.Release) bool {
		return k.Channel != o.Channel || o.Arch != "" && k.Arch != o.Arch
	})
	if len(all) == 0 {
		return found, false, fmt.Errorf("repository %s: channel %q has no release for architecture %q: %w; phase-publish stats lists what there is", r.dir, o.Channel, o.Arch, fs.ErrNotExist)
	}
	fits := slices.DeleteFunc(slices.Clone(all), func(k manifest.Release) bool {
		if o.Release == "" && o.Version == 0 {
			return !is(k)
		}
		return o.Release != "" && k.Version != o.Release || o.Version != 0 && k.Number != o.Version
	})
	if len(fits) == 0 {
		return found, false, fmt.Errorf("repository %s: no such release in channel %q: %w; it has %s", r.dir, o.Channel, fs.ErrNotExist, listed(all))
	}
	if other := slices.IndexFunc(fits, func(k manifest.Release) bool { return k.Arch != fits[0].Arch }); other > 0 {
		return found, false, fmt.Errorf("channel %q: it has releases for %s and %s (%w); name one with --arch", o.Channel, fits[0].Arch, fits[other].Arch, fs.ErrInvalid)
	}
	return fits[0], is(fits[0]), nil // of two with one name the newer
}

// listed names releases, the newest first.
func listed(all []manifest.Release) string {
	const most = 16
	var names []string
	for _, r := range all[:min(len(all), most)] {
		names = append(names, fmt.Sprintf("%q (version %d, %s)", r.Version, r.Number, r.Arch))
	}
	if len(all) > most {
		names = append(names, "and older ones")
	}
	return strings.Join(names, ", ")
}

// signedOnce returns the manifest of a release that the release keys of some root and targets
// of the repository have signed, the newest first.
func (r *repo) signedOnce(ctx context.Context, release manifest.Release) ([]byte, error) {
	name, err := manifest.RoleName(release.Channel, release.Arch)
	if err != nil {
		return nil, err
	}
	data, err := r.read(ctx, manifest.FileName(name, release.Number), manifest.KindRole)
	if err != nil {
		return nil, err
	}
	newest, err := r.files().Newest(roleTargets)
	if err != nil {
		return nil, fmt.Errorf("repository: %w", err)
	}
	refusal := fmt.Errorf("repository %s: no targets.json in it: %w", r.dir, fs.ErrNotExist)
	for v := newest; v > max(0, newest-lookBack); v-- {
		err := r.signedUnder(ctx, v, data)
		if err == nil || ctx.Err() != nil {
			return data, ctx.Err()
		}
		if v == newest {
			refusal = fmt.Errorf("repository %s: %w", r.dir, err)
		}
	}
	return nil, refusal
}

// signedUnder judges a manifest by one version of the targets and the roots that own it.
func (r *repo) signedUnder(ctx context.Context, version int64, role []byte) error {
	targets, err := r.read(ctx, manifest.FileName(roleTargets, version), manifest.KindTargets)
	if err != nil {
		return err
	}
	refusal := fmt.Errorf("%d.targets.json: no root of the repository lists its keys: %w", version, manifest.ErrSignature)
	for _, root := range slices.Backward(r.roots) {
		if root.Owns(manifest.KindTargets, targets) != nil {
			continue
		}
		data, err := r.read(ctx, manifest.FileName(roleRoot, root.Version()), manifest.KindRoot)
		if err != nil {
			return err
		}
		if _, refusal = manifest.CheckRole(data, targets, role, dateless); refusal == nil {
			return nil
		}
	}
	return refusal
}
