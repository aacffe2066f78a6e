package signer

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/phaseboot/phaseboot/manifest"
)

// PromoteSpec names a release of one channel that another one is to have as well.
type PromoteSpec struct {
	Repo           string
	File           string // the release; the newest of From in Repo when empty
	From, To, Arch string // channels and architecture
	Lifetime       time.Duration
	Keys           []Key // of To
	Out            string
	Force          bool // as ReleaseSpec has it
	Now            time.Time
}

// Promote writes to s.Out a manifest of channel To that says of the very same artifacts
// what a release of channel From says, and signs it. The release must be signed by the
// keys of From and not expired; it is not changed, and no artifact is read. Errors are
// those of Release.
func Promote(ctx context.Context, s PromoteSpec) (Summary, error) {
	from, err := roleName(s.From, s.Arch)
	if err != nil {
		return Summary{}, err
	}
	if s.From == s.To {
		return Summary{}, invalid("channel %q: is both --from and --to; name another one with --to, or take a bad release back with 'phase-sign rollback'", s.To)
	}
	to := ReleaseSpec{Repo: s.Repo, Channel: s.To, Arch: s.Arch, Keys: s.Keys, Out: s.Out, Force: s.Force, Now: s.Now, Lifetime: s.Lifetime}
	t, number, err := to.open()
	if err != nil {
		return Summary{}, err
	}
	d, err := s.source(from)
	if err != nil {
		return Summary{}, err
	}
	if d.role != from {
		return Summary{}, invalid("manifest %s: is a release of %q for %s, not of %q", d.path, d.role, s.Arch, s.From)
	}
	if err := t.check(d, s.Now); err != nil {
		return Summary{}, err
	}
	return to.again(ctx, t, *d.release, number)
}

// source opens the release that is to be promoted.
func (s PromoteSpec) source(role string) (*document, error) {
	path := s.File
	if path == "" {
		newest, err := manifest.DirFetcher(s.Repo).Newest(role)
		if err != nil {
			return nil, fmt.Errorf("repository %s: %w", s.Repo, advise(err))
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
	if d.kind != manifest.KindRole {
		return nil, invalid("manifest %s: is %s metadata; name a release", path, d.kind)
	}
	return d, nil
}
