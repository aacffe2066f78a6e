package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

// ManifestFile is the name under which Get writes the release manifest.
const ManifestFile = "release.json"

// GetOptions name a release of a repository and the folder for its files.
type GetOptions struct {
	Store, Repo string
	Channel     string
	Arch        string       // "" where the channel has one architecture
	Release     string       // its version string, "" for any
	Version     int64        // its role version, 0 for any; without both, the published release
	Role        string       // one artifact; "" for all, and the manifest
	Out         string       // folder, made when missing
	Log         *slog.Logger // nil: silent
}

// Got is what Get wrote, and what was there.
type Got struct {
	manifest.Release
	Published bool      `json:"published"` // machines boot this release now
	Files     []GotFile `json:"files"`
}

// A GotFile is one file of a release that Get wrote or found.
type GotFile struct {
	Role   string `json:"role"` // "" for the manifest
	Path   string `json:"path"`
	Length int64  `json:"length"`
	Kept   bool   `json:"kept,omitempty"` // the same file was there, and is unchanged
}

// Get writes the artifacts of a release to files that are named by their roles, as phase-sign
// release and add take them. The release keys of the repository, those of the newest or of
// an earlier root and targets, must have signed the manifest; dates are not checked. A file
// gets its name only when its length, its blocks and its sha256 agree with the manifest.
// A folder never gets files of two releases: Get refuses a folder with a file of another
// release before it writes. After an error it removes what it wrote.
//
// Errors wrap fs.ErrNotExist for a release that is not there, or that gc removed;
// cas.ErrCorrupt for a store that lost blocks; manifest.ErrSignature for a manifest that no
// keys of the repository signed; fs.ErrExist for a file of another release in the folder.
func Get(ctx context.Context, o GetOptions) (Got, error) {
	r, err := repo.Open(ctx, o.Repo)
	if err != nil {
		return Got{}, err
	}
	release, published, err := pick(ctx, r, o)
	if err != nil {
		return Got{}, err
	}
	data, err := r.SignedManifest(ctx, release)
	if err != nil {
		return Got{}, err
	}
	packs, err := Open(ctx, o.Store, o.Log)
	if err != nil {
		return Got{}, err
	}
	defer packs.Close()
	got := Got{Release: release, Published: published, Files: []GotFile{}}
	err = got.write(ctx, o, packs, data)
	if errors.Is(err, fs.ErrNotExist) {
		err = ExplainMissing(ctx, r, o.Store, packs, fmt.Errorf("release %q: incomplete in the store, an earlier gc may have removed it: %w", release.Version, err))
	}
	return got, err
}

// pick finds the release that the options name.
func pick(ctx context.Context, r *repo.Repo, o GetOptions) (found manifest.Release, published bool, err error) {
	all, err := repo.Releases(ctx, r.Dir)
	if err != nil {
		return found, false, err
	}
	now, err := r.PublishedReleases(ctx)
	if err != nil && len(now) == 0 && !errors.Is(err, fs.ErrNotExist) {
		return found, false, err
	}
	all = slices.DeleteFunc(all, func(k manifest.Release) bool {
		return k.Channel != o.Channel || o.Arch != "" && k.Arch != o.Arch
	})
	if len(all) == 0 {
		arch := ""
		if o.Arch != "" {
			arch = fmt.Sprintf(" for architecture %q", o.Arch)
		}
		return found, false, fmt.Errorf("repository %s: channel %q has no release%s: %w; phase-publish stats lists the releases", r.Dir, o.Channel, arch, fs.ErrNotExist)
	}
	matches := slices.DeleteFunc(withEarlier(all), func(k manifest.Release) bool {
		if o.Release == "" && o.Version == 0 {
			return !repo.Contains(now, k)
		}
		return o.Release != "" && k.Version != o.Release || o.Version != 0 && k.Number != o.Version
	})
	if len(matches) == 0 {
		return found, false, fmt.Errorf("repository %s: no such release in channel %q: %w; it has %s", r.Dir, o.Channel, fs.ErrNotExist, listed(all))
	}
	if other := slices.IndexFunc(matches, func(k manifest.Release) bool { return k.Arch != matches[0].Arch }); other > 0 {
		return found, false, fmt.Errorf("channel %q: it has releases for %s and %s (%w); name one with --arch", o.Channel, matches[0].Arch, matches[other].Arch, fs.ErrInvalid)
	}
	return matches[0], repo.Contains(now, matches[0]), nil // the newest of several with one version string
}

// withEarlier lists releases, and after them the earlier ones beside them: the repository may no longer have
// the manifest that was theirs.
func withEarlier(all []manifest.Release) []manifest.Release {
	list := slices.Clone(all)
	for _, r := range all {
		list = append(list, r.Earlier...)
	}
	return list
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
