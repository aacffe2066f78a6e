package signer

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// PromoteSpec names a release of one channel that another channel will have too.
type PromoteSpec struct {
	ManifestSpec
	From string // channel that has the release
	File string // the release; the newest of From in Repo when empty
}

// Promote writes a manifest of s.Channel with the content of a release of channel From to s.Out,
// and signs it. The release must be signed by the keys of From and not expired. A newest release that 0 % has
// stopped wraps fs.ErrInvalid, unless s.File names it. No artifact is read. Other errors are those of Release.
func Promote(ctx context.Context, s PromoteSpec) (Summary, error) {
	from, err := roleName(s.From, s.Arch)
	if err != nil {
		return Summary{}, err
	}
	if s.From == s.Channel {
		return Summary{}, refusal.Invalid("channel %q: is both --from and --to; name another one with --to, or take a bad release back with 'phase-sign rollback'", s.From)
	}
	r, number, err := s.open()
	if err != nil {
		return Summary{}, err
	}
	d, err := s.source(from)
	if err != nil {
		return Summary{}, err
	}
	if d.Role() != from {
		return Summary{}, refusal.Invalid("manifest %s: is a release of %q for %s, not of %q", d.path, d.Role(), s.Arch, s.From)
	}
	if err := r.check(d, s.Now); err != nil {
		return Summary{}, err
	}
	if o := d.Release().Rollout; s.File == "" && o != nil && o.Percent != nil && *o.Percent == 0 && len(o.Groups) == 0 {
		return Summary{}, refusal.Invalid("release %q: is stopped in channel %q (0 %% of the machines), and %q would have it for every machine; name the manifest of the release to promote", d.Release().Version, s.From, s.Channel)
	}
	return s.signAgain(ctx, r, *d.Release(), number)
}

// source opens the release to promote.
func (s PromoteSpec) source(role string) (*document, error) {
	path := s.File
	if path == "" {
		newest, err := manifest.DirFetcher(s.Repo).Newest(role)
		if err != nil {
			return nil, fmt.Errorf("repository %s: %w", s.Repo, file.Advise(err))
		}
		if newest == 0 {
			return nil, fmt.Errorf("channel %q for %s: no release in repository %s: %w; name its manifest", s.From, s.Arch, s.Repo, fs.ErrNotExist)
		}
		path = filepath.Join(s.Repo, manifest.FileName(role, newest))
	}
	d, err := openDocument(path)
	if err != nil {
		return nil, err
	}
	if d.Kind() != manifest.KindRole {
		return nil, refusal.Invalid("manifest %s: is %s metadata; name a release", path, d.Kind())
	}
	return d, nil
}
