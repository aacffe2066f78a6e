package signer

import (
	"cmp"
	"context"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// RollbackSpec names a release of a channel whose content will follow the newest one.
type RollbackSpec struct {
	ManifestSpec
	To string // version string; when empty, the last release for every machine before the first one with the content of the newest
}

// Rollback writes a manifest with the next version and the content of an older release of the same
// channel to s.Out, and signs it. Machines refuse a version below one that they have seen, so a new
// version replaces a bad release. The keys that the channel lists now must have signed the old
// release; it may be expired. No artifact is read. Errors are those of Release; a release that is
// not in the repository wraps fs.ErrNotExist.
func Rollback(ctx context.Context, s RollbackSpec) (Summary, error) {
	r, number, err := s.open()
	if err != nil {
		return Summary{}, err
	}
	role, err := roleName(s.Channel, s.Arch)
	if err != nil {
		return Summary{}, err
	}
	past, err := r.history(role)
	if err != nil {
		return Summary{}, err
	}
	p, err := s.choose(past)
	if err != nil {
		return Summary{}, err
	}
	d, err := openDocument(p.File)
	if err != nil {
		return Summary{}, err
	}
	if err := r.check(d, time.Time{}); err != nil {
		return Summary{}, err
	}
	return s.signAgain(ctx, r, *d.Release(), number)
}

// choose finds the release to go back to. A second rollback goes back further, and not forward to
// the release that the first one replaced. A release that was stopped, or that only some machines took, is chosen by
// its name alone: the new manifest is for every machine.
func (s RollbackSpec) choose(past []Past) (Past, error) {
	if len(past) == 0 {
		return Past{}, refusal.New(fs.ErrNotExist, "channel %q for %s: no release in repository %s; sign one with 'phase-sign release'", s.Channel, s.Arch, s.Repo)
	}
	last := past[len(past)-1]
	first := cmp.Or(last.SameAs, last.Number) // the first version with the newest content
	for i := len(past) - 1; i >= 0; i-- {
		p := past[i]
		if s.To != "" && p.Version == s.To || s.To == "" && p.Number < first && s.forAll(past, p) {
			return p, nil
		}
	}
	if s.To == "" && past[0].Number < first {
		return Past{}, refusal.New(fs.ErrNotExist, "channel %q for %s: repository %s has no release before version %d, which has the content of the newest, that was for every machine; name one with --to", s.Channel, s.Arch, s.Repo, first)
	}
	if s.To == "" {
		return Past{}, refusal.New(fs.ErrNotExist, "channel %q for %s: repository %s has no release before version %d, which has the content of the newest; name one with --to, or a repository that has one", s.Channel, s.Arch, s.Repo, first)
	}
	return Past{}, refusal.New(fs.ErrNotExist, "release %.64q: not among those of channel %q for %s in repository %s, which has %s", s.To, s.Channel, s.Arch, s.Repo, versions(past))
}

// forAll reports whether the newest manifest with the content of p was for every machine that no hold keeps back.
func (s RollbackSpec) forAll(past []Past, p Past) bool {
	content := func(p Past) int64 { return cmp.Or(p.SameAs, p.Number) }
	for _, o := range slices.Backward(past) {
		if content(o) != content(p) {
			continue
		}
		if o.Rollout == nil {
			return true
		}
		roll := *o.Rollout
		if !roll.NotBefore.After(s.Now) {
			roll.NotBefore = time.Time{} // has passed
		}
		return !roll.Conditional()
	}
	return false
}

// versions lists the version strings of the last releases, each once.
func versions(past []Past) string {
	const most = 8
	var list []string
	for _, p := range past {
		list = append(slices.DeleteFunc(list, func(v string) bool { return v == p.Version }), p.Version)
	}
	list = list[max(0, len(list)-most):]
	return strings.Join(list, ", ")
}

// signAgain signs the content of an existing release with the channel, number and dates of s.
func (s ManifestSpec) signAgain(ctx context.Context, r *repository, old manifest.Release, number int64) (Summary, error) {
	old.Repository, old.Channel, old.Number, old.SignedAt, old.Expires = r.root.Repository(), s.Channel, number, s.Now, s.Now.Add(s.Lifetime)
	if s.Submitters != nil {
		old.Submitters = s.Submitters
	}
	if err := s.carry(r, &old); err != nil {
		return Summary{}, err
	}
	return s.signAndWrite(ctx, r, old)
}
