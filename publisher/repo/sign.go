package repo

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/manifest"
)

// How long the signatures of the online key are valid. A short timestamp bounds how long
// a publisher, or an attacker in front of it, can keep machines on an old release.
const (
	DefaultTimestampExpiry = 24 * time.Hour
	minSnapshotExpiry      = 30 * 24 * time.Hour
)

// An OnlineKey signs snapshot and timestamp.
type OnlineKey struct {
	Signer signature.Signer
	Public ed25519.PublicKey
	Expiry time.Duration // of a timestamp; 0 is DefaultTimestampExpiry
}

// TimestampExpiry is how long a new timestamp is valid.
func (k OnlineKey) TimestampExpiry() time.Duration { return cmp.Or(k.Expiry, DefaultTimestampExpiry) }

// snapshotExpiry is longer than that of the timestamp, which alone bounds a freeze attack.
func (k OnlineKey) snapshotExpiry() time.Duration {
	return max(minSnapshotExpiry, 2*k.TimestampExpiry())
}

// Due reports whether the timestamp must be signed again: less than half of the life of
// timestamp or snapshot is left, or a rotation of keys made the snapshot outdated.
func (r *Repo) Due(ctx context.Context, p *Published, s Signing) (bool, error) {
	unpublished, err := r.UnpublishedTargets(ctx, p)
	if err != nil || unpublished != "" || r.KeyReplaced(p) {
		return err == nil, err
	}
	return p.timestamp.Signed.Expires.Sub(s.Now) < s.Key.TimestampExpiry()/2 || s.snapshotAged(p), nil
}

func (s Signing) snapshotAged(p *Published) bool {
	return p.snapshot.Signed.Expires.Sub(s.Now) < s.Key.snapshotExpiry()/2
}

// Renew signs the timestamp again, and the snapshot where that is due. Without always it
// does nothing and returns false when another process has renewed them meanwhile.
func (r *Repo) Renew(ctx context.Context, always bool, s Signing) (renewed bool, err error) {
	unlock, err := r.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	if err := r.CheckOnlineKey(s.Key.Public); err != nil {
		return false, err
	}
	p, err := r.Published(ctx)
	if err != nil {
		return false, err
	}
	if p == nil {
		return false, r.NoRelease()
	}
	if due, err := r.Due(ctx, p, s); err != nil || !always && !due {
		return false, err
	}
	p, base, err := r.base(ctx)
	if err != nil {
		return false, err
	}
	if p == nil { // it was removed meanwhile: base reads it again
		return false, r.NoRelease()
	}
	return true, r.renew(ctx, base, s)
}

// renew writes a new timestamp, and a new snapshot where the old one is rebuilt, aged or
// names other targets than the newest. The caller has the lock.
func (r *Repo) renew(ctx context.Context, base *Published, s Signing) error {
	targets, err := r.newestTargets(ctx)
	if err != nil {
		return err
	}
	snapshot := manifest.File{Role: metadata.SNAPSHOT, Version: base.snapshotVersion(), Data: base.data.snapshot}
	if base.data.snapshot == nil || base.roleVersion(metadata.TARGETS) != targets.Version || s.snapshotAged(base) {
		if snapshot, err = r.writeSnapshot(base, s, targets); err != nil {
			return err
		}
	}
	return r.writeTimestamp(base, snapshot, s)
}

func (r *Repo) writeSnapshot(base *Published, s Signing, files ...manifest.File) (manifest.File, error) {
	next, err := manifest.NewSnapshot(base.snapshot, signingTime(base, s.Now).Add(s.Key.snapshotExpiry()), files...)
	if err != nil {
		return manifest.File{}, fmt.Errorf("snapshot: %w", err)
	}
	f := manifest.File{Role: metadata.SNAPSHOT, Version: next.Signed.Version}
	f.Data, err = signAndWrite(r, manifest.KindSnapshot, next, f.Version, s.Key.Signer)
	return f, err
}

func (r *Repo) writeTimestamp(base *Published, snapshot manifest.File, s Signing) error {
	at := signingTime(base, s.Now)
	next, err := manifest.NewTimestamp(base.timestamp, snapshot, at, at.Add(s.Key.TimestampExpiry()))
	if err != nil {
		return fmt.Errorf("timestamp: %w", err)
	}
	_, err = signAndWrite(r, manifest.KindTimestamp, next, next.Signed.Version, s.Key.Signer)
	return err
}

// signAndWrite signs metadata of the repository, writes its file and returns the content.
func signAndWrite[T metadata.Roles](r *Repo, kind manifest.Kind, m *metadata.Metadata[T], version int64, s signature.Signer) ([]byte, error) {
	manifest.SetRepository(m, r.Root.Repository())
	if _, err := manifest.Sign(m, s); err != nil {
		return nil, fmt.Errorf("%s: online key: %w", kind, err)
	}
	data, err := manifest.Bytes(kind, m)
	if err != nil {
		return nil, err
	}
	return data, r.write(manifest.FileName(string(kind), version), data)
}

func (r *Repo) write(name string, data []byte) error {
	if err := atomicfile.Write(filepath.Join(r.Dir, name), 0o644, data); err != nil {
		return fmt.Errorf("repository: %w", err)
	}
	return nil
}

// Renewable lists what keeps a daemon from renewing what it serves: the newest root does
// not list its online key or its IPNS name, or the folder is not writable.
func (r *Repo) Renewable(key OnlineKey, record *Record) (problems []error) {
	if r.CheckOnlineKey(key.Public) != nil {
		problems = append(problems, fmt.Errorf("root version %d replaced the online key (%w); start phase-publish serve again with the new --online-key", r.Root.Version(), manifest.ErrSignature))
	}
	if !slices.Contains(r.Root.Discovery().IPNS, record.Name) {
		problems = append(problems, fmt.Errorf("root version %d does not list the IPNS name %s (%w): machines that know it look elsewhere; start phase-publish serve again with the new --ipns-key", r.Root.Version(), record.Name, manifest.ErrSignature))
	}
	if err := r.writable(); err != nil {
		problems = append(problems, err)
	}
	return problems
}

// writable reports why signatures cannot be renewed in the repository.
func (r *Repo) writable() error {
	f, err := os.OpenFile(filepath.Join(r.Dir, lockName), os.O_RDWR|os.O_CREATE, 0o644)
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		err = unix.Faccessat(unix.AT_FDCWD, r.Dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS)
	}
	if err == nil {
		return nil
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return fmt.Errorf("repository %s: not writable for this user (%w): the timestamp cannot be signed again and will expire; make the folder and its files writable", r.Dir, err)
}
