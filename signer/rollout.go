package signer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// Conditions say which machines take a new manifest's release. The zero value changes nothing: a new
// release is for every machine except those in groups that are held already.
type Conditions struct {
	Percent   *int // 100 removes percentage, groups and date; 0 removes the groups, unless Groups names some
	Groups    []string
	NotBefore time.Time // zero for none
	Hold      []string  // groups that stay on the releases that they have; not for Rollout
	Earlier   int       // how many earlier releases the manifest carries, also those for every machine that none takes now; 0 for those that some machine takes
	Floor     *int64    // the lowest content number to which machines may fall back; nil keeps that of the newest release, 0 removes it
}

// isZero reports that nothing is asked for.
func (c Conditions) isZero() bool {
	return c.Percent == nil && len(c.Groups)+len(c.Hold)+c.Earlier == 0 && c.NotBefore.IsZero() && c.Floor == nil
}

// change returns a roll-out with the conditions that are given, nil for every machine.
func (c Conditions) change(old *manifest.Rollout) *manifest.Rollout {
	var o manifest.Rollout
	if old != nil {
		o = *old
	}
	if c.Percent != nil {
		o.Percent = c.Percent
	}
	switch {
	case c.Groups != nil:
		o.Groups = sortedNames(c.Groups)
	case c.Percent != nil && *c.Percent == 0:
		o.Groups = nil // no machine is left on a release that is stopped
	}
	if !c.NotBefore.IsZero() {
		o.NotBefore = c.NotBefore.UTC().Truncate(time.Second)
	}
	if o.Percent != nil && *o.Percent == 100 {
		o = manifest.Rollout{Hold: o.Hold}
	}
	return hold(&o, c.Hold)
}

// hold returns a roll-out with more groups that do not take the release, nil for every machine.
func hold(o *manifest.Rollout, groups []string) *manifest.Rollout {
	var c manifest.Rollout
	if o != nil {
		c = *o
	}
	if c.Hold = sortedNames(append(slices.Clone(c.Hold), groups...)); len(c.Hold) == 0 {
		c.Hold = nil
	}
	return orNil(c)
}

// unhold returns a roll-out without held groups, nil for every machine.
func unhold(o *manifest.Rollout, groups []string) *manifest.Rollout {
	if o == nil {
		return nil
	}
	c := *o
	c.Hold = slices.DeleteFunc(slices.Clone(c.Hold), func(g string) bool { return slices.Contains(groups, g) })
	return orNil(c)
}

// orNil returns nil for a roll-out without a field.
func orNil(o manifest.Rollout) *manifest.Rollout {
	if o.Percent == nil && len(o.Groups)+len(o.Hold) == 0 && o.NotBefore.IsZero() {
		return nil
	}
	return &o
}

func sortedNames(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }

// carry adds to a new release what the roll-out and the held groups need: conditions, and the earlier
// releases of the repository for the machines that do not take the new one.
func (s ManifestSpec) carry(r *repository, next *manifest.Release) error {
	next.First, next.Rollout, next.Earlier, next.FallbackFloor = 0, nil, nil, 0
	d, err := s.newestManifest(r)
	if errors.Is(err, fs.ErrNotExist) {
		next.Rollout = s.Rollout.change(nil)
		if next.Rollout != nil || s.Rollout.Earlier > 0 {
			return refusal.New(fs.ErrNotExist, "%v; release to every machine first", err)
		}
		next.FallbackFloor = s.Rollout.floor(0)
		return s.checkPending(r, *next)
	}
	if err != nil {
		return err
	}
	newest := *d.Release()
	if err := checkNewest(r, d); err != nil {
		if s.Rollout.isZero() && !errors.Is(err, errRollout) {
			return s.checkPending(r, *next)
		}
		return err
	}
	next.Rollout = hold(s.Rollout.change(nil), newest.Rollout.Held())
	next.FallbackFloor = s.Rollout.floor(newest.FallbackFloor)
	if next.Earlier, err = s.Rollout.choose(*next, earlier(newest)); err != nil {
		return err
	}
	s.cutSubmitters(next)
	return s.checkPending(r, *next)
}

// cutSubmitters takes the submitters that the new list does not name from the earlier releases too: on the machines
// that take these, a stolen key would count on.
func (s ManifestSpec) cutSubmitters(r *manifest.Release) {
	if s.Submitters == nil {
		return
	}
	for i := range r.Earlier {
		e := &r.Earlier[i]
		e.Submitters = slices.DeleteFunc(slices.Clone(e.Submitters), func(o manifest.Submitter) bool { return !hasSubmitter(s.Submitters, o) })
	}
}

// floor returns the floor of the next manifest.
func (c Conditions) floor(old int64) int64 {
	if c.Floor != nil {
		return *c.Floor
	}
	return old
}

// errRollout says that a release has a roll-out, which must not get lost.
var errRollout = errors.New("it has a roll-out")

// newest returns the newest release of the channel that is in the repository. The keys that the channel
// lists now must have signed it; it may be expired.
func (s ManifestSpec) newest(r *repository) (manifest.Release, error) {
	d, err := s.newestManifest(r)
	if err != nil {
		return manifest.Release{}, err
	}
	return *d.Release(), checkNewest(r, d)
}

// newestManifest reads the newest manifest of the channel that is in the repository. It says which groups are held
// and how far back machines may fall, so a damaged one is skipped with s.Force alone.
func (s ManifestSpec) newestManifest(r *repository) (*document, error) {
	role, err := roleName(s.Channel, s.Arch)
	if err != nil {
		return nil, err
	}
	numbers, err := manifest.DirFetcher(r.dir).Versions(role)
	if err != nil {
		return nil, fmt.Errorf("repository %s: %w", r.dir, file.Advise(err))
	}
	for _, n := range slices.Backward(numbers) {
		d, err := openVersion(r.dir, role, n)
		switch {
		case isDamaged(err) && s.Force:
			continue
		case isDamaged(err):
			return nil, fmt.Errorf("channel %q for %s: its newest manifest cannot be read, and held groups and the fallback floor are in it: %w; get the repository again, or leave them out with --force", s.Channel, s.Arch, err)
		case err != nil:
			return nil, err
		}
		return d, nil
	}
	return nil, refusal.New(fs.ErrNotExist, "channel %q for %s: no release in repository %s", s.Channel, s.Arch, r.dir)
}

// checkNewest checks the signatures of the newest manifest.
func checkNewest(r *repository, d *document) error {
	err, release := r.check(d, time.Time{}), d.Release()
	if err != nil && (release.Rollout != nil || release.Earlier != nil || release.FallbackFloor > 0) {
		err = fmt.Errorf("%w (%w)", err, errRollout)
	}
	return err
}

// earlier returns the releases of a manifest as earlier ones of the next. They lose their boot set: a stick is
// renewed by the newest release alone.
func earlier(r manifest.Release) []manifest.Release {
	list := r.All()
	for i := range list {
		e := &list[i]
		e.First, e.FallbackFloor = e.ContentNumber(), 0
		e.Artifacts = slices.DeleteFunc(slices.Clone(e.Artifacts), func(a manifest.Artifact) bool { return manifest.IsBootSet(a.Role) })
	}
	return list
}

// choose returns those earlier releases that some machine takes if next is the newest, and more if asked. If
// there are too many, it leaves out the oldest ones that are not for every machine.
func (c Conditions) choose(next manifest.Release, list []manifest.Release) ([]manifest.Release, error) {
	most := manifest.MaxEarlier
	if c.Earlier > 0 {
		most = c.Earlier
	}
	list = slices.Clone(list)
	for {
		chosen := reachable(next, list)
		if len(chosen) <= most {
			return c.fill(list, chosen), nil
		}
		last := -1
		for i, e := range list {
			if e.Rollout.Conditional() {
				last = i
			}
		}
		if last < 0 {
			return nil, refusal.Invalid("release %q: %d earlier releases have machines that do not take a newer one, and the manifest may carry %d; remove a hold with 'phase-sign hold --remove', or give a greater --earlier (at most %d)",
				next.Version, len(chosen), most, manifest.MaxEarlier)
		}
		list = slices.Delete(list, last, last+1)
	}
}

// fill adds the newest of list until there are as many as asked. They are for a fallback, so those that were not for
// every machine are left out: their roll-out was stopped, or replaced before its end.
func (c Conditions) fill(list, chosen []manifest.Release) []manifest.Release {
	has := func(r manifest.Release) bool {
		return slices.ContainsFunc(chosen, func(o manifest.Release) bool { return o.First == r.First })
	}
	for _, r := range list {
		if len(chosen) < c.Earlier && !has(r) && !r.Rollout.Conditional() {
			chosen = append(chosen, r)
		}
	}
	slices.SortFunc(chosen, func(a, b manifest.Release) int { return int(b.First - a.First) })
	return chosen
}

// reachable returns those earlier releases that some machine takes. A machine comes past a release that is not
// for every machine, and past others if it is in a group that they hold back.
func reachable(next manifest.Release, list []manifest.Release) (out []manifest.Release) {
	before := []manifest.Release{next}
	for _, e := range list {
		passes := func(b manifest.Release) bool {
			return b.Rollout.Conditional() || slices.ContainsFunc(b.Rollout.Held(), func(g string) bool { return !slices.Contains(e.Rollout.Held(), g) })
		}
		if !slices.ContainsFunc(before, func(b manifest.Release) bool { return !passes(b) }) {
			out = append(out, e)
		}
		before = append(before, e)
	}
	return out
}

// RolloutSpec names a channel whose newest release is signed again for other machines.
type RolloutSpec struct{ ManifestSpec }

// Rollout writes a manifest with the newest release of a channel and other conditions to s.Out, and signs it.
// Conditions that are not given stay. Earlier releases that no machine takes any more are left out. No artifact is
// read. Errors are those of Release; a channel without a release wraps fs.ErrNotExist.
func Rollout(ctx context.Context, s RolloutSpec) (Summary, error) {
	r, number, newest, err := s.openNewest()
	if err != nil {
		return Summary{}, err
	}
	newest.Rollout = s.Rollout.change(newest.Rollout)
	newest.FallbackFloor = s.Rollout.floor(newest.FallbackFloor)
	return s.signRollout(ctx, r, newest, number, newest.Earlier)
}

// openNewest opens the repository and its newest release.
func (s ManifestSpec) openNewest() (r *repository, number int64, newest manifest.Release, err error) {
	if r, number, err = s.open(); err != nil {
		return nil, 0, newest, err
	}
	if newest, err = s.newest(r); errors.Is(err, fs.ErrNotExist) {
		err = refusal.New(fs.ErrNotExist, "%v; sign one with 'phase-sign release'", err)
	}
	return r, number, newest, err
}

// signRollout signs a release again, with those of its earlier ones that machines take.
func (s ManifestSpec) signRollout(ctx context.Context, r *repository, release manifest.Release, number int64, list []manifest.Release) (sum Summary, err error) {
	release.First = release.ContentNumber()
	if release.Earlier, err = s.Rollout.choose(release, list); err != nil {
		return Summary{}, err
	}
	release.Number, release.SignedAt, release.Expires = number, s.Now, s.Now.Add(s.Lifetime)
	if s.Submitters != nil {
		release.Submitters = s.Submitters
	}
	s.cutSubmitters(&release)
	if err := s.checkPending(r, release); err != nil {
		return Summary{}, err
	}
	return s.signAndWrite(ctx, r, release)
}

// HoldSpec names groups of machines and the release that they stay on.
type HoldSpec struct {
	ManifestSpec
	Groups []string
	To     string // version string of the release; not with Remove
	Remove bool   // the groups take newer releases again
}

// Hold writes a manifest with the newest release of a channel to s.Out, in which groups of machines stay on an
// earlier release, and signs it. Later manifests keep that, until Remove. The release is one that the manifest
// carries, or another of the channel's history, which the keys that the channel lists now must have signed. No
// artifact is read. Errors are those of Rollout; a release that is not there wraps fs.ErrNotExist, and one on which no
// group can be held fs.ErrInvalid.
func Hold(ctx context.Context, s HoldSpec) (Summary, error) {
	r, number, newest, err := s.openNewest()
	if err != nil {
		return Summary{}, err
	}
	list := newest.Earlier
	if s.Remove {
		for _, g := range s.Groups {
			if !slices.ContainsFunc(newest.All(), func(e manifest.Release) bool { return slices.Contains(e.Rollout.Held(), g) }) {
				return Summary{}, refusal.Invalid("group %q: no release of channel %q holds it back; 'phase-sign show' lists the groups", g, s.Channel)
			}
		}
		newest.Rollout = unhold(newest.Rollout, s.Groups)
		for i := range list {
			list[i].Rollout = unhold(list[i].Rollout, s.Groups)
		}
		return s.signRollout(ctx, r, newest, number, list)
	}
	if list, err = s.withHeld(r, newest); err != nil {
		return Summary{}, err
	}
	newest.Rollout = hold(newest.Rollout, s.Groups)
	for i := range list {
		if list[i].Version == s.To {
			list[i].Rollout = unhold(list[i].Rollout, s.Groups)
			break
		}
		list[i].Rollout = hold(list[i].Rollout, s.Groups)
	}
	return s.signRollout(ctx, r, newest, number, list)
}

// withHeld returns the earlier releases of the newest one, with the release to hold a group on among them.
func (s HoldSpec) withHeld(r *repository, newest manifest.Release) ([]manifest.Release, error) {
	list := newest.Earlier
	if newest.Version == s.To {
		return nil, refusal.Invalid("release %q: is the newest, so there is nothing to hold back yet; give --hold %s to the next 'phase-sign release'", s.To, strings.Join(s.Groups, " --hold "))
	}
	if i := slices.IndexFunc(list, func(e manifest.Release) bool { return e.Version == s.To }); i >= 0 {
		if list[i].Rollout.Conditional() {
			return nil, refusal.Invalid("release %q: is not for every machine, so the group may be outside; name another --release, or widen the roll-out first", s.To)
		}
		return list, nil
	}
	role, err := roleName(s.Channel, s.Arch)
	if err != nil {
		return nil, err
	}
	past, err := r.history(role)
	if err != nil {
		return nil, err
	}
	p, err := RollbackSpec{ManifestSpec: s.ManifestSpec, To: s.To}.choose(past)
	if err != nil {
		return nil, err
	}
	d, err := openDocument(p.File)
	if err != nil {
		return nil, err
	}
	if err := r.check(d, time.Time{}); err != nil {
		return nil, err
	}
	held := earlier(*d.Release())[0]
	held.Rollout = nil
	if held.First >= newest.ContentNumber() {
		return nil, refusal.Invalid("release %q: has number %d, which is not below %d, that of the newest; name an older --release", s.To, held.First, newest.ContentNumber())
	}
	list = append(slices.Clone(list), held)
	slices.SortStableFunc(list, func(a, b manifest.Release) int { return int(b.First - a.First) })
	return slices.CompactFunc(list, func(a, b manifest.Release) bool { return a.First == b.First }), nil
}

// earlierName names an earlier release and its machines.
func earlierName(e manifest.Release) string {
	return fmt.Sprintf("%s (number %d) for %s", e.Version, e.ContentNumber(), e.Rollout.Words())
}

// earlierNames names the earlier releases of a manifest.
func earlierNames(r manifest.Release) (list []string) {
	for _, e := range r.Earlier {
		list = append(list, earlierName(e))
	}
	return list
}

// sameRollout reports whether the same machines take the same releases.
func sameRollout(a, b manifest.Release) bool {
	return a.Rollout.Words() == b.Rollout.Words() && a.FallbackFloor == b.FallbackFloor && slices.EqualFunc(a.Earlier, b.Earlier, func(x, y manifest.Release) bool {
		return earlierName(x) == earlierName(y) && sameContent(x, y)
	})
}
