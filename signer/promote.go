package signer

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/signer/key"
)

// PromoteSpec names a release of one channel that another channel will have too.
type PromoteSpec struct {
	Repo           string
	File           string // the release; the newest of From in Repo when empty
	From, To, Arch string // channels and architecture
	Lifetime       time.Duration
	Keys           []key.Key // of To
	Out            string
	Force          bool // as ReleaseSpec has it
	Now            time.Time
}

// Promote writes a manifest of channel To with the content of a release of channel From to s.Out,
// and signs it. The release must be signed by the keys of From and not expired. No artifact is
// read. Errors are those of Release.
func Promote(ctx context.Context, s PromoteSpec) (Summary, error) {
	from, err := roleName(s.From, s.Arch)
	if err != nil {
		return Summary{}, err
	}
	if s.From == s.To {
		return Summary{}, refusal.Invalid("channel %q: is both --from and --to; name another one with --to, or take a bad release back with 'phase-sign rollback'", s.To)
	}
	to := ReleaseSpec{Repo: s.Repo, Channel: s.To, Arch: s.Arch, Keys: s.Keys, Out: s.Out, Force: s.Force, Now: s.Now, Lifetime: s.Lifetime}
	r, number, err := to.open()
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
	return to.signAgain(ctx, r, *d.Release(), number)
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
