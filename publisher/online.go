package publisher

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"path/filepath"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/manifest"
)

// How long the signatures of the online key hold. A short timestamp bounds how long a
// publisher, or who stands in front of it, can keep machines on an old release.
const (
	DefaultTimestampExpiry = 24 * time.Hour
	leastSnapshotExpiry    = 30 * 24 * time.Hour
)

// Online is the key that signs snapshot and timestamp.
type Online struct {
	Signer signature.Signer
	Public ed25519.PublicKey
	Expiry time.Duration // of a timestamp; 0 is DefaultTimestampExpiry
}

func (o Online) expiry() time.Duration {
	if o.Expiry == 0 {
		return DefaultTimestampExpiry
	}
	return o.Expiry
}

// snapshotExpiry outlives the timestamp, which is the one that bounds a freeze.
func (o Online) snapshotExpiry() time.Duration {
	return max(leastSnapshotExpiry, 2*o.expiry())
}

// stale reports whether less than half of a signature's life is left.
func (o Online) stale(p *published, now time.Time) bool {
	return p.timestamp.Signed.Expires.Sub(now) < o.expiry()/2 || p.snapshot.Signed.Expires.Sub(now) < o.snapshotExpiry()/2
}

// publish writes a release manifest, the snapshot that names it and the timestamp that
// names the snapshot, in this order. The caller holds the lock.
func (r *repo) publish(ctx context.Context, o Online, prev *published, role manifest.File, now time.Time) error {
	targets, err := r.newestTargets(ctx)
	if err != nil {
		return err
	}
	if err := r.write(manifest.FileName(role.Role, role.Version), role.Data); err != nil {
		return err
	}
	snapshot, err := r.writeSnapshot(o, prev, now, targets, role)
	if err != nil {
		return err
	}
	return r.writeTimestamp(o, prev, snapshot, now)
}

// renew signs a new timestamp, and a new snapshot where that one is getting old or is
// not what the newest root and targets ask for. The caller holds the lock; prev is
// ground.
func (r *repo) renew(ctx context.Context, o Online, prev *published, now time.Time) error {
	targets, err := r.newestTargets(ctx)
	if err != nil {
		return err
	}
	snapshot := manifest.File{Role: roleSnapshot, Version: prev.snapshotVersion(), Data: prev.data.snapshot}
	if prev.data.snapshot == nil || prev.roleVersion(roleTargets) != targets.Version || prev.snapshot.Signed.Expires.Sub(now) < o.snapshotExpiry()/2 {
		if snapshot, err = r.writeSnapshot(o, prev, now, targets); err != nil {
			return err
		}
	}
	return r.writeTimestamp(o, prev, snapshot, now)
}

func (r *repo) writeSnapshot(o Online, prev *published, now time.Time, files ...manifest.File) (manifest.File, error) {
	var before *metadata.Metadata[metadata.SnapshotType]
	if prev != nil {
		before = prev.snapshot
	}
	next, err := manifest.NewSnapshot(before, signingTime(prev, now).Add(o.snapshotExpiry()), files...)
	if err != nil {
		return manifest.File{}, fmt.Errorf("snapshot: %w", err)
	}
	manifest.SetRepository(next, r.root.Repository())
	data, err := seal(manifest.KindSnapshot, next, o.Signer)
	if err != nil {
		return manifest.File{}, err
	}
	f := manifest.File{Role: roleSnapshot, Version: next.Signed.Version, Data: data}
	return f, r.write(manifest.FileName(f.Role, f.Version), data)
}

func (r *repo) writeTimestamp(o Online, prev *published, snapshot manifest.File, now time.Time) error {
	var before *metadata.Metadata[metadata.TimestampType]
	if prev != nil {
		before = prev.timestamp
	}
	at := signingTime(prev, now)
	next, err := manifest.NewTimestamp(before, snapshot, at, at.Add(o.expiry()))
	if err != nil {
		return fmt.Errorf("timestamp: %w", err)
	}
	manifest.SetRepository(next, r.root.Repository())
	data, err := seal(manifest.KindTimestamp, next, o.Signer)
	if err != nil {
		return err
	}
	return r.write(manifest.FileName(roleTimestamp, next.Signed.Version), data)
}

// seal signs metadata and returns its file form.
func seal[T metadata.Roles](kind manifest.Kind, m *metadata.Metadata[T], s signature.Signer) ([]byte, error) {
	if _, err := manifest.Sign(m, s); err != nil {
		return nil, fmt.Errorf("%s: online key: %w", kind, err)
	}
	return manifest.Bytes(kind, m)
}

func (r *repo) write(name string, data []byte) error {
	if err := atomicfile.Write(filepath.Join(r.dir, name), 0o644, data); err != nil {
		return fmt.Errorf("repository: %w", err)
	}
	return nil
}
