package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/manifest"
)

const (
	// lookBack is how many versions back a signed release or its targets are searched.
	lookBack = 64
	// maxVersion is more than publishing ever reaches. An attacker with the online key may
	// have set a higher version; after the key was replaced, machines accept a lower one.
	maxVersion = 1 << 40
)

// base returns what is published (nil when nothing is) and what the next snapshot and
// timestamp are built on: the published ones, when the newest root's keys signed them and
// their files have the lengths and hashes in them. After the online key was replaced it
// rebuilds them from the releases in the folder, each verified by itself. It refuses anything
// else, because the folder was changed by other means.
func (r *Repo) base(ctx context.Context) (p, base *Published, err error) {
	if p, err = r.Published(ctx); err != nil {
		return nil, nil, err
	}
	switch {
	case p == nil:
		return nil, &Published{}, nil
	case r.KeyReplaced(p):
		base, err = r.rebuild(ctx, p)
		return p, base, err
	}
	if err = p.checkSigned(r.Root); err == nil {
		err = manifest.CheckHashes(ctx, r.files())
	}
	if err != nil {
		return nil, nil, fmt.Errorf("repository %s: %w", r.Dir, err)
	}
	return p, p, nil
}

// checkSigned checks that the online key of a root signed timestamp and snapshot.
func (p *Published) checkSigned(root *manifest.Root) error {
	return cmp.Or(root.CheckSigned(manifest.KindTimestamp, p.data.timestamp), root.CheckSigned(manifest.KindSnapshot, p.data.snapshot))
}

// KeyReplaced reports whether the online key of an earlier root signed what is published,
// and that of the newest root did not.
func (r *Repo) KeyReplaced(p *Published) bool {
	signed := func(root *manifest.Root) bool { return p.checkSigned(root) == nil }
	return slices.ContainsFunc(r.roots, signed) && !signed(r.Root)
}

// UnpublishedTargets is a warning when the newest targets.json, after a rotation of release
// keys, is not the published one; "" when it is, or when the online key was replaced too.
func (r *Repo) UnpublishedTargets(ctx context.Context, p *Published) (string, error) {
	if r.KeyReplaced(p) {
		return "", nil
	}
	targets, err := r.newestTargets(ctx)
	old := p.roleVersion(metadata.TARGETS)
	if err != nil || old == targets.Version {
		return "", err
	}
	return fmt.Sprintf("targets version %d is not published: machines still use the release keys of version %d; run phase-publish serve, or add a release that the new keys have signed", targets.Version, old), nil
}

// rebuild makes a base from the newest targets.json and the releases in the folder.
func (r *Repo) rebuild(ctx context.Context, p *Published) (*Published, error) {
	targets, err := r.newestTargets(ctx)
	if err != nil {
		return nil, err
	}
	delegations, err := manifest.ReadDelegations(targets.Data)
	if err != nil {
		return nil, err
	}
	files := []manifest.File{targets}
	for _, d := range delegations {
		f, err := r.newestRelease(ctx, targets, d)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	snapshot, err := manifest.NewSnapshot(nil, p.snapshot.Signed.Expires, files...)
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	snapshot.Signed.Version = plausible(p.snapshot.Signed.Version)
	timestamp := &metadata.Metadata[metadata.TimestampType]{Signed: p.timestamp.Signed}
	timestamp.Signed.Version = plausible(p.timestamp.Signed.Version)
	timestamp.Signed.UnrecognizedFields = nil // an attacker may have chosen its date of signing
	return &Published{timestamp: timestamp, snapshot: snapshot}, nil
}

// plausible returns the version to count on from: 0 for one above maxVersion.
func plausible(version int64) int64 {
	if version > maxVersion {
		return 0
	}
	return version
}

// newestRelease finds the newest manifest of a channel that the channel's keys signed, or the newest settings of
// machines.
func (r *Repo) newestRelease(ctx context.Context, targets manifest.File, d manifest.Delegation) (manifest.File, error) {
	role, err := d.Role()
	if err != nil {
		return manifest.File{}, err
	}
	newest, err := r.files().Newest(role)
	if err != nil {
		return manifest.File{}, fmt.Errorf("repository: %w", err)
	}
	for v := newest; v > max(0, newest-lookBack); v-- {
		data, err := r.read(ctx, manifest.FileName(role, v), manifest.KindRole)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return manifest.File{}, err
		}
		if d.IsConfig() {
			if c, err := manifest.CheckConfig(r.RootData, targets.Data, data, anyDate); err == nil && c.Number == v {
				return manifest.File{Role: role, Version: v, Data: data}, nil
			}
			continue
		}
		release, err := manifest.CheckRole(r.RootData, targets.Data, data, anyDate)
		if err == nil && release.Number == v && release.Channel == d.Channel && release.Arch == d.Arch {
			return manifest.File{Role: role, Version: v, Data: data}, nil
		}
	}
	return manifest.File{}, fs.ErrNotExist
}
