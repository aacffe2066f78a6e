package manifest

import (
	"io/fs"
	"slices"
)

// Fallback returns an older release, by its content (Release.Content), for a machine that has run it before and
// cannot run the one that Verify has chosen. It is one of those that the newest manifest carries. Otherwise
// saved is a manifest of this channel that the machine has kept: the keys that the newest targets.json
// lists must have signed it, and it may be expired. Percentages, groups and dates do not count. The
// error wraps ErrRollback for a release below the floor that the signer has set and for one that is not
// older, such as one that the signer has stopped; fs.ErrNotExist without a manifest that
// has it; and otherwise as that of CheckRole.
func (v *Verified) Fallback(content string, saved []byte) (*Verified, error) {
	list := v.newest.withContent(content)
	if len(list) == 0 && saved != nil {
		old, err := v.checkSaved(saved)
		if err != nil {
			return nil, err
		}
		list = old.withContent(content)
	}
	reason := refuse(fs.ErrNotExist, "the release that has started here: neither in the newest manifest nor in the one that was kept; wait for a newer release")
	for i, r := range list {
		err := v.mayFallBack(r)
		if err == nil {
			fallback := *v
			fallback.release, fallback.fallback = r, true
			return &fallback, nil
		}
		if i == 0 {
			reason = err
		}
	}
	return nil, reason
}

// mayFallBack returns nil if the signed rules allow to run r in place of the release that Verify has chosen.
func (v *Verified) mayFallBack(r Release) error {
	chosen, newest, number := v.release, v.newest, r.ContentNumber()
	switch {
	case number < newest.FallbackFloor:
		return refuse(ErrRollback, "release number %d: below %d, the oldest one to which machines may fall back, as release %.64q says; wait for a newer release",
			number, newest.FallbackFloor, newest.Version)
	case number >= chosen.ContentNumber():
		return refuse(ErrRollback, "release number %d: not older than number %d, release %.64q, which is for this machine; wait for a newer release",
			number, chosen.ContentNumber(), chosen.Version)
	case r.Rollout.stopped():
		return refuse(ErrRollback, "release number %d: stopped, as release %.64q says; wait for a newer release", number, newest.Version)
	}
	return nil
}

// withContent returns the releases of the manifest that have a content, the newest first.
func (r Release) withContent(content string) []Release {
	return slices.DeleteFunc(r.All(), func(one Release) bool { return one.Content() != content })
}

// checkSaved judges an older manifest of the same channel by the newest root and targets.
func (v *Verified) checkSaved(data []byte) (Release, error) {
	role, name, claim, err := readRole(data)
	if err != nil {
		return Release{}, err
	}
	id := versioned(name, role.Version())
	newest := v.newest
	if claim.Channel != newest.Channel || claim.Arch != newest.Arch {
		return Release{}, refuse(ErrPath, "%s: where a release of %q for %q is expected", id, newest.Channel, newest.Arch)
	}
	if role.Version() > newest.Number {
		return Release{}, refuse(ErrRollback, "%s: newer than version %d, which was verified; %s", id, newest.Number, askNewer)
	}
	if err := v.root.checkSigned(role, v.owners.authority, "its keys were replaced; wait for a newer release"); err != nil {
		return Release{}, inFile(id, err)
	}
	return v.owners.decode(id, role, claim.Channel, claim.Arch)
}
