package publisher

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/manifest"
)

const (
	// lookBack is how many versions of a release are looked through for the newest good one.
	lookBack = 64
	// maxVersion is beyond what publishing ever reaches. A thief who had the online key may
	// have set a version higher; under a new key, machines let it fall.
	maxVersion = 1 << 40
)

// owned says whether the keys of the newest root have signed what is published.
func (r *repo) owned(p *published) error {
	if err := r.root.Owns(manifest.KindTimestamp, p.data.timestamp); err != nil {
		return fmt.Errorf("repository %s: %w", r.dir, err)
	}
	if err := r.root.Owns(manifest.KindSnapshot, p.data.snapshot); err != nil {
		return fmt.Errorf("repository %s: %w", r.dir, err)
	}
	return nil
}

// replaced reports whether what is published was signed by the keys of an earlier root.
func (r *repo) replaced(p *published) bool {
	for _, root := range r.roots {
		if root.Owns(manifest.KindTimestamp, p.data.timestamp) == nil && root.Owns(manifest.KindSnapshot, p.data.snapshot) == nil {
			return r.owned(p) != nil
		}
	}
	return false
}

// behind reports whether a rotation of keys asks for a new snapshot, whatever its date.
func (r *repo) behind(ctx context.Context, p *published) (bool, error) {
	if r.replaced(p) {
		return true, nil
	}
	targets, err := r.newestTargets(ctx)
	return p.roleVersion(roleTargets) != targets.Version, err
}

// unpublished says so where the newest targets, after a rotation of release keys, are not
// what is published; "" where they are.
func (r *repo) unpublished(ctx context.Context, p *published) (string, error) {
	targets, err := r.newestTargets(ctx)
	old := p.roleVersion(roleTargets)
	if err != nil || old == targets.Version {
		return "", err
	}
	return fmt.Sprintf("targets version %d is not published: machines still go by the release keys of version %d; run phase-publish serve, or add a release that the new keys have signed", targets.Version, old), nil
}

// ground is what the next snapshot and timestamp are built upon: what is published, if
// it is signed and whole; after its key was replaced, the releases that lie in the
// folder, each verified for itself. Anything else is refused: somebody touched it.
func (r *repo) ground(ctx context.Context, p *published) (*published, error) {
	switch {
	case p == nil:
		return nil, nil
	case r.replaced(p):
		return r.salvage(ctx, p)
	}
	if err := r.owned(p); err != nil {
		return nil, err
	}
	return p, r.whole(ctx, p)
}

// whole compares the files of the folder with what the timestamp and the snapshot say.
func (r *repo) whole(ctx context.Context, p *published) error {
	name := manifest.FileName(roleSnapshot, p.snapshotVersion())
	if err := p.timestamp.Signed.Meta["snapshot.json"].VerifyLengthHashes(p.data.snapshot); err != nil {
		return fmt.Errorf("repository %s: %s: %v: %w", r.dir, name, err, manifest.ErrMixAndMatch)
	}
	files := map[string][]byte{}
	if err := r.addNamed(ctx, files, p); err != nil {
		return err
	}
	for role, meta := range p.snapshot.Signed.Meta {
		name := fmt.Sprintf("%d.%s", meta.Version, role)
		if err := meta.VerifyLengthHashes(files[name]); err != nil {
			return fmt.Errorf("repository %s: %s: %v: %w", r.dir, name, err, manifest.ErrMixAndMatch)
		}
	}
	return nil
}

// salvage makes the ground anew from the targets and the releases in the folder.
func (r *repo) salvage(ctx context.Context, p *published) (*published, error) {
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
	snapshot.Signed.Version = within(p.snapshot.Signed.Version)
	timestamp := &metadata.Metadata[metadata.TimestampType]{Signed: p.timestamp.Signed}
	timestamp.Signed.Version = within(p.timestamp.Signed.Version)
	timestamp.Signed.UnrecognizedFields = nil // its date of signing may be a thief's
	return &published{timestamp: timestamp, snapshot: snapshot}, nil
}

// within keeps versions rising, except from one that was set too high on purpose.
func within(version int64) int64 {
	if version > maxVersion {
		return 0
	}
	return version
}

// newestRelease finds the newest manifest of a channel that its keys have signed.
func (r *repo) newestRelease(ctx context.Context, targets manifest.File, d manifest.Delegation) (manifest.File, error) {
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
		release, err := manifest.CheckRole(r.rootData, targets.Data, data, dateless)
		if err == nil && release.Number == v && release.Channel == d.Channel && release.Arch == d.Arch {
			return manifest.File{Role: role, Version: v, Data: data}, nil
		}
	}
	return manifest.File{}, fs.ErrNotExist
}
