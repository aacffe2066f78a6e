package signer

import (
	"cmp"
	"context"
	"io/fs"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/manifest"
)

// RollbackSpec names the release of a channel that is to follow the newest one again.
type RollbackSpec struct {
	Repo, Channel, Arch string
	To                  string // version string; when empty, the release before the first one with the content of the newest
	Lifetime            time.Duration
	Keys                []Key
	Out                 string
	Force               bool // as ReleaseSpec has it
	Now                 time.Time
}

// Rollback writes to s.Out a manifest with the next version and the content of an older
// release of the same channel, and signs it. Machines refuse a version that is lower than
// one that they have seen, so a bad release is taken back by a new version. The old release
// must be signed by the keys that the channel lists now; it may have expired, and no
// artifact is read. Errors are those of Release; a release that the repository does not have
// wraps fs.ErrNotExist.
func Rollback(ctx context.Context, s RollbackSpec) (Summary, error) {
	to := ReleaseSpec{Repo: s.Repo, Channel: s.Channel, Arch: s.Arch, Keys: s.Keys, Out: s.Out, Force: s.Force, Now: s.Now, Lifetime: s.Lifetime}
	t, number, err := to.open()
	if err != nil {
		return Summary{}, err
	}
	role, err := roleName(s.Channel, s.Arch)
	if err != nil {
		return Summary{}, err
	}
	past, err := t.history(role)
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
	if err := t.check(d, time.Time{}); err != nil {
		return Summary{}, err
	}
	return to.again(ctx, t, *d.release, number)
}

// choose finds the release to go back to. A second rollback goes back further: it does not
// bring back what the first one took back.
func (s RollbackSpec) choose(past []Past) (Past, error) {
	if len(past) == 0 {
		return Past{}, because(fs.ErrNotExist, "channel %q for %s: no release in repository %s; there is nothing to go back to", s.Channel, s.Arch, s.Repo)
	}
	last := past[len(past)-1]
	first := cmp.Or(last.SameAs, last.Number) // that has the newest content
	for i := len(past) - 1; i >= 0; i-- {
		p := past[i]
		if s.To != "" && p.Version == s.To || s.To == "" && p.Number < first {
			return p, nil
		}
	}
	if s.To == "" {
		return Past{}, because(fs.ErrNotExist, "channel %q for %s: repository %s has no release before version %d, which has the content of the newest; name one with --to, or a repository that has one", s.Channel, s.Arch, s.Repo, first)
	}
	return Past{}, because(fs.ErrNotExist, "release %.64q: not among those of channel %q for %s in repository %s, which has %s", s.To, s.Channel, s.Arch, s.Repo, versions(past))
}

// versions are the last names of releases.
func versions(past []Past) string {
	const most = 8
	var list []string
	for _, p := range past[max(0, len(past)-most):] {
		list = append(list, p.Version)
	}
	return strings.Join(list, ", ")
}

// again signs the content of a release under the channel, number and dates of s.
func (s ReleaseSpec) again(ctx context.Context, t *trust, r manifest.Release, number int64) (Summary, error) {
	r.Repository, r.Channel, r.Number, r.SignedAt, r.Expires = t.root.repository, s.Channel, number, s.Now, s.Now.Add(s.Lifetime)
	role, err := manifest.Encode(r)
	if err != nil {
		return Summary{}, invalid("release %q: %v", r.Version, err)
	}
	return s.signAndWrite(ctx, t, role)
}
