package manifest

import (
	"io/fs"
	"slices"
)

// Fallback returns the release with a content number, for a machine that has run it before and cannot
// run the one that Verify has chosen. It is one of those that the newest manifest carries. Otherwise
// saved is a manifest of this channel that the machine has kept: the keys that the newest targets.json
// lists must have signed it, and it may be expired. Percentages, groups and dates do not count. The
// error wraps ErrRollback for a number below the floor that the signer has set and for one that is not
// older, fs.ErrNotExist without a manifest that has it, and otherwise as that of CheckRole.
func (v *Verified) Fallback(number int64, saved []byte) (*Verified, error) {
	newest := v.newest
	if number < newest.FallbackFloor {
		return nil, refuse(ErrRollback, "release number %d: below %d, the oldest one to which machines may fall back, as release %.64q says; wait for a newer release",
			number, newest.FallbackFloor, newest.Version)
	}
	list := newest.All()
	if !hasContent(list, number) && saved != nil {
		old, err := v.checkSaved(saved)
		if err != nil {
			return nil, err
		}
		list = old.All()
	}
	for _, r := range list {
		if r.ContentNumber() == number {
			fallback := *v
			fallback.release = r
			return &fallback, nil
		}
	}
	return nil, refuse(fs.ErrNotExist, "release number %d: neither in the newest manifest nor in the one that was kept; wait for a newer release", number)
}

func hasContent(list []Release, number int64) bool {
	return slices.ContainsFunc(list, func(r Release) bool { return r.ContentNumber() == number })
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
