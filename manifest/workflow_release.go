package manifest

import (
	"context"
	"io/fs"
	"strings"
)

// release updates the delegated role of a channel and an architecture, and decodes it.
func (w *workflow) release(ctx context.Context, channel, arch string) (Release, error) {
	role, err := RoleName(channel, arch)
	if err != nil {
		return Release{}, refuse(fs.ErrNotExist, "%v; %s", err, w.available())
	}
	owners := w.targets.delegation(role)
	if owners == nil {
		return Release{}, refuse(fs.ErrNotExist, "channel %q for %q: not in this repository; %s", channel, arch, w.available())
	}
	if w.snapshot.metaFile(role+".json") == nil {
		return Release{}, refuse(fs.ErrNotExist, "channel %q for %q: no release yet; %s", channel, arch, w.available())
	}
	doc, err := w.updateRole(ctx, role, KindRole, owners.authority, releaseAgain)
	if err != nil {
		return Release{}, err
	}
	w.manifest = doc
	return owners.decode(versioned(role, doc.Version()), doc, channel, arch)
}

// available lists the channels of the repository for a message.
func (w *workflow) available() string {
	var list []string
	for _, role := range w.channels() {
		channel, arch, _ := SplitRole(role)
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
func (w *workflow) channels() []string {
	var roles []string
	for _, d := range w.targets.delegations {
		if _, _, ok := SplitRole(d.name); ok && w.snapshot.metaFile(d.name+".json") != nil {
			roles = append(roles, d.name)
		}
	}
	return roles
}
