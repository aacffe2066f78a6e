package repo

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/phaseboot/phaseboot/manifest"
)

// A Signing says with which key and at what time a repository is signed.
type Signing struct {
	Key         OnlineKey
	Now         time.Time
	IgnoreClock bool // sign although the clock contradicts the dates of what is published
}

// Check returns the release of a manifest that may be published: the newest root and
// targets delegate to its keys, its version is newer than the published one or it is the
// published manifest itself, and the clock agrees with the dates.
func (r *Repo) Check(ctx context.Context, data []byte, s Signing) (manifest.Release, error) {
	targets, err := r.newestTargets(ctx)
	if err != nil {
		return manifest.Release{}, err
	}
	release, err := manifest.CheckRole(r.RootData, targets.Data, data, s.Now)
	if err != nil {
		return release, err
	}
	p, base, err := r.base(ctx)
	if err != nil {
		return release, err
	}
	known, err := r.isPublished(ctx, base, release, data)
	if err != nil || known {
		return release, err
	}
	if err := release.CheckSignedAt(s.Now); err != nil {
		return release, err
	}
	return release, r.agreesWithClock(p, s)
}

// agreesWithClock is CheckClock, unless the clock is to be ignored.
func (r *Repo) agreesWithClock(p *Published, s Signing) error {
	if s.IgnoreClock {
		return nil
	}
	return r.CheckClock(p, s.Now)
}

// isPublished reports whether data is the published manifest of its channel. It refuses
// another manifest that is not newer than the published one.
func (r *Repo) isPublished(ctx context.Context, base *Published, release manifest.Release, data []byte) (bool, error) {
	name, err := manifest.RoleName(release.Channel, release.Arch)
	if err != nil {
		return false, err
	}
	old := base.roleVersion(name)
	if release.Number > old {
		return false, nil
	}
	if release.Number == old {
		published, err := r.read(ctx, manifest.FileName(name, old), manifest.KindRole)
		if err != nil {
			return false, err
		}
		if bytes.Equal(published, data) {
			return true, nil
		}
	}
	return false, fmt.Errorf("release %q: %s version %d is not newer than version %d, which is published; sign it again with phase-sign release, which takes the next version: %w",
		release.Version, name, release.Number, old, manifest.ErrRollback)
}

// Publish writes the manifest of a release, the snapshot that names it and the timestamp
// that names the snapshot, in this order. When the manifest is published already it
// returns true, and renews the timestamp where that is due.
func (r *Repo) Publish(ctx context.Context, release manifest.Release, data []byte, s Signing) (published bool, err error) {
	unlock, err := r.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	p, base, err := r.base(ctx)
	if err != nil {
		return false, err
	}
	if published, err = r.isPublished(ctx, base, release, data); err != nil {
		return false, err
	}
	if published {
		if due, err := r.Due(ctx, p, s); err != nil || !due {
			return true, err
		}
		if err := r.agreesWithClock(p, s); err != nil {
			return true, err
		}
		return true, r.renew(ctx, base, s)
	}
	name, err := manifest.RoleName(release.Channel, release.Arch)
	if err != nil {
		return false, err
	}
	targets, err := r.newestTargets(ctx)
	if err != nil {
		return false, err
	}
	role := manifest.File{Role: name, Version: release.Number, Data: data}
	if err := r.write(manifest.FileName(role.Role, role.Version), role.Data); err != nil {
		return false, err
	}
	snapshot, err := r.writeSnapshot(base, s, targets, role)
	if err != nil {
		return false, err
	}
	return false, r.writeTimestamp(base, snapshot, s)
}

// PublishConfig writes the settings of machines, the snapshot that names them and the timestamp that names the
// snapshot. The newest root and targets must delegate to the keys that have signed them, and their version must be
// newer than the published one. When they are published already it returns true. A repository without a release wraps
// fs.ErrNotExist.
func (r *Repo) PublishConfig(ctx context.Context, data []byte, s Signing) (c manifest.Config, published bool, err error) {
	unlock, err := r.lock(ctx)
	if err != nil {
		return c, false, err
	}
	defer unlock()
	if err := r.CheckOnlineKey(s.Key.Public); err != nil {
		return c, false, err
	}
	targets, err := r.newestTargets(ctx)
	if err != nil {
		return c, false, err
	}
	if c, err = manifest.CheckConfig(r.RootData, targets.Data, data, s.Now); err != nil {
		return c, false, err
	}
	p, base, err := r.base(ctx)
	if err != nil {
		return c, false, err
	}
	if p == nil {
		return c, false, r.NoRelease()
	}
	switch old := base.roleVersion(manifest.ConfigRole); {
	case c.Number == old:
		now, err := r.read(ctx, manifest.FileName(manifest.ConfigRole, old), manifest.KindConfig)
		if err != nil {
			return c, false, err
		}
		if bytes.Equal(now, data) {
			return c, true, nil
		}
		fallthrough
	case c.Number < old:
		return c, false, fmt.Errorf("settings: version %d is not newer than version %d, which is published; sign them again with phase-sign config: %w", c.Number, old, manifest.ErrRollback)
	}
	if err := c.CheckSignedAt(s.Now); err != nil {
		return c, false, err
	}
	if err := r.agreesWithClock(p, s); err != nil {
		return c, false, err
	}
	role := manifest.File{Role: manifest.ConfigRole, Version: c.Number, Data: data}
	if err := r.write(manifest.FileName(role.Role, role.Version), role.Data); err != nil {
		return c, false, err
	}
	snapshot, err := r.writeSnapshot(base, s, targets, role)
	if err != nil {
		return c, false, err
	}
	return c, false, r.writeTimestamp(base, snapshot, s)
}
