package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

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

// base returns what the next snapshot and timestamp are built on: the published ones, when
// the newest root's keys signed them and their files are complete. After the online key was
// replaced it rebuilds them from the releases in the folder, each verified by itself. It
// refuses anything else, because the folder was changed by other means.
func (r *Repo) base(ctx context.Context, p *Published) (*Published, error) {
	switch {
	case p == nil:
		return nil, nil
	case r.KeyReplaced(p):
		return r.rebuild(ctx, p)
	}
	if err := r.signedByRoot(p); err != nil {
		return nil, err
	}
	return p, r.complete(ctx)
}

// signedByRoot checks that the online key of the newest root signed what is published.
func (r *Repo) signedByRoot(p *Published) error {
	if err := r.Root.CheckSigned(manifest.KindTimestamp, p.data.timestamp); err != nil {
		return fmt.Errorf("repository %s: %w", r.Dir, err)
	}
	if err := r.Root.CheckSigned(manifest.KindSnapshot, p.data.snapshot); err != nil {
		return fmt.Errorf("repository %s: %w", r.Dir, err)
	}
	return nil
}

// KeyReplaced reports whether the online key of an earlier root signed what is published,
// and that of the newest root did not.
func (r *Repo) KeyReplaced(p *Published) bool {
	for _, root := range r.roots {
		if root.CheckSigned(manifest.KindTimestamp, p.data.timestamp) == nil && root.CheckSigned(manifest.KindSnapshot, p.data.snapshot) == nil {
			return r.signedByRoot(p) != nil
		}
	}
	return false
}

// outdated reports whether a rotation of keys needs a new snapshot, whatever its expiry.
func (r *Repo) outdated(ctx context.Context, p *Published) (bool, error) {
	if r.KeyReplaced(p) {
		return true, nil
	}
	targets, err := r.newestTargets(ctx)
	return p.roleVersion(metadata.TARGETS) != targets.Version, err
}

// UnpublishedTargets is a warning when the newest targets.json, after a rotation of release
// keys, is not the published one; "" when it is.
func (r *Repo) UnpublishedTargets(ctx context.Context, p *Published) (string, error) {
	targets, err := r.newestTargets(ctx)
	old := p.roleVersion(metadata.TARGETS)
	if err != nil || old == targets.Version {
		return "", err
	}
	return fmt.Sprintf("targets version %d is not published: machines still use the release keys of version %d; run phase-publish serve, or add a release that the new keys have signed", targets.Version, old), nil
}

// complete compares the files in the folder with the lengths and hashes in the timestamp
// and the snapshot.
func (r *Repo) complete(ctx context.Context) error {
	if err := manifest.CheckHashes(ctx, r.files()); err != nil {
		return fmt.Errorf("repository %s: %w", r.Dir, err)
	}
	return nil
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

// newestRelease finds the newest manifest of a channel that the channel's keys signed.
func (r *Repo) newestRelease(ctx context.Context, targets manifest.File, d manifest.Delegation) (manifest.File, error) {
	role, err := manifest.RoleName(d.Channel, d.Arch)
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
		release, err := manifest.CheckRole(r.RootData, targets.Data, data, anyDate)
		if err == nil && release.Number == v && release.Channel == d.Channel && release.Arch == d.Arch {
			return manifest.File{Role: role, Version: v, Data: data}, nil
		}
	}
	return manifest.File{}, fs.ErrNotExist
}
