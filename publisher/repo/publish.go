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
	_, known, err := r.releaseFile(ctx, base, release, data)
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

// releaseFile returns the file of a release, and reports whether it is published.
func (r *Repo) releaseFile(ctx context.Context, base *Published, release manifest.Release, data []byte) (f manifest.File, published bool, err error) {
	name, err := manifest.RoleName(release.Channel, release.Arch)
	if err != nil {
		return f, false, err
	}
	f = manifest.File{Role: name, Version: release.Number, Data: data}
	published, err = r.isPublished(ctx, base, f, manifest.KindRole,
		fmt.Sprintf("release %q: %s", release.Version, name), "sign it again with phase-sign release, which takes the next version")
	return f, published, err
}

// isPublished reports whether f is the published file of its role. It refuses another one that is not newer, with an
// error that begins with what and says the remedy.
func (r *Repo) isPublished(ctx context.Context, base *Published, f manifest.File, kind manifest.Kind, what, remedy string) (bool, error) {
	old := base.roleVersion(f.Role)
	if f.Version > old {
		return false, nil
	}
	if f.Version == old {
		published, err := r.read(ctx, manifest.FileName(f.Role, old), kind)
		if err != nil {
			return false, err
		}
		if bytes.Equal(published, f.Data) {
			return true, nil
		}
	}
	return false, fmt.Errorf("%s version %d is not newer than version %d, which is published; %s: %w", what, f.Version, old, remedy, manifest.ErrRollback)
}

// writeRole writes the file of a role, the snapshot that names it and the timestamp that names the snapshot, in this order.
func (r *Repo) writeRole(base *Published, targets, role manifest.File, s Signing) error {
	if err := r.write(manifest.FileName(role.Role, role.Version), role.Data); err != nil {
		return err
	}
	snapshot, err := r.writeSnapshot(base, s, targets, role)
	if err != nil {
		return err
	}
	return r.writeTimestamp(base, snapshot, s)
}

// Publish writes the manifest of a release, a snapshot and a timestamp. When the manifest is published already it
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
	role, published, err := r.releaseFile(ctx, base, release, data)
	if err != nil {
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
	targets, err := r.newestTargets(ctx)
	if err != nil {
		return false, err
	}
	return false, r.writeRole(base, targets, role, s)
}

// PublishConfig writes the settings of machines, a snapshot and a timestamp. The newest root and targets must delegate
// to the keys that have signed them, and their version must be newer than the published one. When they are published
// already it returns true. A repository without a release wraps fs.ErrNotExist.
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
	role := manifest.File{Role: manifest.ConfigRole, Version: c.Number, Data: data}
	published, err = r.isPublished(ctx, base, role, manifest.KindConfig, "settings:", "sign them again with phase-sign config")
	if err != nil || published {
		return c, published, err
	}
	if err := c.CheckSignedAt(s.Now); err != nil {
		return c, false, err
	}
	if err := r.agreesWithClock(p, s); err != nil {
		return c, false, err
	}
	return c, false, r.writeRole(base, targets, role, s)
}
