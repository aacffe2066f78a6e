package manifest

import (
	"context"
	"io/fs"
	"strings"
)

// release loads and judges the delegated role of a channel and an architecture.
func (w *walk) release(ctx context.Context, channel, arch string) (Release, error) {
	role, err := RoleName(channel, arch)
	if err != nil {
		return Release{}, refuse(fs.ErrNotExist, "%v; %s", err, w.offer())
	}
	owners := w.targets.delegation(role)
	if owners == nil {
		return Release{}, refuse(fs.ErrNotExist, "channel %q for %q: not in this repository; %s", channel, arch, w.offer())
	}
	if w.snapshot.file(role+".json") == nil {
		return Release{}, refuse(fs.ErrNotExist, "channel %q for %q: no release yet; %s", channel, arch, w.offer())
	}
	doc, err := w.role(ctx, role, KindRole, owners.authority, releaseAgain)
	if err != nil {
		return Release{}, err
	}
	return owners.read(versioned(role, doc.version()), doc, channel, arch)
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
	for _, name := range w.targets.delegations() {
		if _, _, ok := splitRole(name); ok && w.snapshot.file(name+".json") != nil {
			roles = append(roles, name)
		}
	}
	return roles
}
