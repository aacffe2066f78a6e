package signer

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// checkPending refuses to replace a manifest at s.Out that is not published, if it changes something that next, which
// follows the published one, does not change too. next needs no artifacts yet.
func (s ManifestSpec) checkPending(r *repository, next manifest.Release) error {
	if s.Force {
		return nil
	}
	d, err := openDocument(s.Out)
	if err != nil || d.Kind() != manifest.KindRole {
		return nil // checkOut has judged it
	}
	role, err := roleName(s.Channel, s.Arch)
	if err != nil || d.Role() != role || r.checkRepository(d) != nil {
		return err
	}
	if published, err := isPublished(r, d, next.Number-1); published || err != nil {
		return err
	}
	var before manifest.Release
	if b, err := s.newestManifest(r); err == nil {
		before = *b.Release()
	}
	if what := lost(before, *d.Release(), next); what != "" {
		return refusal.New(fs.ErrExist, "manifest %s: is not published, and %s would be lost; publish it first with 'phase-publish add', choose another name, or replace it with --force", s.Out, what)
	}
	return nil
}

// isPublished reports whether the repository has had a document: the same one, or one of its number or a later one
// if the repository does not have that file any more.
func isPublished(r *repository, d *document, newest int64) (bool, error) {
	if d.Version() > newest {
		return false, nil
	}
	same, err := openVersion(r.dir, d.Role(), d.Version())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case isDamaged(err):
		return false, nil
	case err != nil:
		return false, err
	}
	return same.Digest() == d.Digest(), nil
}

// lost names what a manifest that is not published changes of the one before, and next does not; "" for nothing.
func lost(before, pending, next manifest.Release) string {
	if pending.Version != before.Version && next.Version == before.Version { // a release replaces another one
		return fmt.Sprintf("release %q in it", pending.Version)
	}
	for _, g := range heldGroups(before, pending) {
		if was := heldOn(before, g); heldOn(pending, g) != was && heldOn(next, g) == was {
			if to := heldOn(pending, g); to != "" {
				return fmt.Sprintf("its hold of group %s on %s", g, to)
			}
			return "its removal of the hold of group " + g
		}
	}
	reverted := func(was, pending, next string) bool { return pending != was && next == was }
	if reverted(fmt.Sprint(before.FallbackFloor), fmt.Sprint(pending.FallbackFloor), fmt.Sprint(next.FallbackFloor)) {
		return fmt.Sprintf("its fallback floor %d", pending.FallbackFloor)
	}
	if before.Version != next.Version {
		return ""
	}
	for _, field := range []func(manifest.Rollout) manifest.Rollout{
		func(o manifest.Rollout) manifest.Rollout { return manifest.Rollout{Percent: o.Percent} },
		func(o manifest.Rollout) manifest.Rollout { return manifest.Rollout{Groups: o.Groups} },
		func(o manifest.Rollout) manifest.Rollout { return manifest.Rollout{NotBefore: o.NotBefore} },
	} {
		words := func(r manifest.Release) string {
			if r.Rollout == nil {
				return (*manifest.Rollout)(nil).Words()
			}
			one := field(*r.Rollout)
			return one.Words()
		}
		if reverted(words(before), words(pending), words(next)) {
			return fmt.Sprintf("its roll-out to %s", pending.Rollout.Words())
		}
	}
	same := func(a, b manifest.Release) bool { return slices.EqualFunc(a.Submitters, b.Submitters, samePolicy) }
	if !same(before, pending) && same(before, next) {
		return "its list of submitters"
	}
	return ""
}

// heldGroups lists the groups that the newest releases of manifests hold back.
func heldGroups(list ...manifest.Release) (groups []string) {
	for _, r := range list {
		groups = append(groups, r.Rollout.Held()...)
	}
	return sortedNames(groups)
}

// heldOn is the version string of the release on which a manifest holds a group, "" if it does not.
func heldOn(r manifest.Release, group string) string {
	for i, one := range r.All() {
		if slices.Contains(one.Rollout.Held(), group) {
			continue
		}
		if i == 0 {
			return ""
		}
		return one.Version
	}
	return "no release"
}
