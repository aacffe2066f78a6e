package manifest

import (
	"context"
	"io/fs"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// release loads and judges the delegated role of a channel and an architecture.
func (w *walk) release(ctx context.Context, channel, arch string) (Release, error) {
	role, err := RoleName(channel, arch)
	if err != nil {
		return Release{}, refuse(fs.ErrNotExist, "%v; %s", err, w.offer())
	}
	targets := w.trusted.Targets[roleTargets]
	delegation, owners := delegatedAuthority(targets, role)
	if delegation == nil {
		return Release{}, refuse(fs.ErrNotExist, "channel %q for %q: not in this repository; %s", channel, arch, w.offer())
	}
	if w.trusted.Snapshot.Signed.Meta[role+".json"] == nil {
		return Release{}, refuse(fs.ErrNotExist, "channel %q for %q: no release yet; %s", channel, arch, w.offer())
	}
	data, err := w.role(ctx, role, KindRole)
	if err != nil {
		return Release{}, err
	}
	next, err := Parse[metadata.TargetsType](KindRole, data)
	if err != nil {
		return Release{}, inFile(role+".json", err)
	}
	id := versioned(role, next.Signed.Version)
	if targets.VerifyDelegate(role, next) != nil {
		return Release{}, refuseSignatures(id, owners, next, rightRoot)
	}
	if err := w.sameVersion(id, role, next.Signed.Version); err != nil {
		return Release{}, err
	}
	if err := w.seenRelease(id, role, next.Signed.Version); err != nil {
		return Release{}, err
	}
	if err := w.expired(id, next.Signed.Expires, releaseAgain); err != nil {
		return Release{}, err
	}
	r, err := delegated(id, delegation, next, channel, arch)
	if err != nil {
		return Release{}, err
	}
	if _, err := w.trusted.UpdateDelegatedTargets(data, role, roleTargets); err != nil {
		return Release{}, tufError(id, err)
	}
	w.remember(role+".json", data)
	return r, nil
}

// delegated checks the paths of a role against its delegation, which go-tuf does not,
// and then reads it.
func delegated(id string, d *metadata.DelegatedRole, role *metadata.Metadata[metadata.TargetsType], channel, arch string) (Release, error) {
	for path := range role.Signed.Targets {
		if ok, err := d.IsDelegatedPath(path); err != nil || !ok {
			return Release{}, refuse(ErrPath, "%s: %.80q is outside %s, all that its keys may sign; the signer has to release again", id, path, strings.Join(d.Paths, " "))
		}
	}
	r, err := Decode(role, channel, arch)
	if err != nil {
		return Release{}, inFile(id, err)
	}
	return r, nil
}

// seenRelease refuses a version below the remembered one, if that one is by keys that
// still own the role: a change of keys recovers from a version that was set too high.
func (w *walk) seenRelease(id, role string, version int64) error {
	data, err := w.memory.read(role+".json", KindRole)
	if absent(err) {
		return nil
	}
	var kept *metadata.Metadata[metadata.TargetsType]
	if err == nil {
		kept, err = Parse[metadata.TargetsType](KindRole, data)
	}
	if err == nil {
		err = w.trusted.Targets[roleTargets].VerifyDelegate(role, kept)
	}
	if err != nil {
		w.note("the state's %s.json was passed over: %v", role, err)
		return nil
	}
	if version < kept.Signed.Version {
		return refuse(ErrRollback, "%s: older than version %d, which was seen before; %s", id, kept.Signed.Version, askAnother)
	}
	if r, err := decodeFields(kept.Signed.UnrecognizedFields[extension]); err == nil {
		w.raise(r.SignedAt)
	}
	return nil
}

// offer lists what the repository has.
func (w *walk) offer() string {
	var list []string
	for _, role := range w.channels() {
		channel, arch, _ := splitRole(role)
		list = append(list, channel+" for "+arch)
	}
	const most = 16
	switch n := len(list); {
	case n == 0:
		return "it has no releases; run phase-publish add"
	case n > most:
		list = append(list[:most], "and more")
	}
	return "it has " + strings.Join(list, ", ")
}

// channels lists the delegated roles that have a release.
func (w *walk) channels() []string {
	var roles []string
	if d := w.trusted.Targets[roleTargets].Signed.Delegations; d != nil {
		for _, role := range d.Roles {
			if _, _, ok := splitRole(role.Name); ok && w.trusted.Snapshot.Signed.Meta[role.Name+".json"] != nil {
				roles = append(roles, role.Name)
			}
		}
	}
	return roles
}
