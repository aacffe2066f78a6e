package repo

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
)

// anyDate is the time for a check of signatures that leaves out the dates.
var anyDate time.Time

// A Repo is a folder of metadata files with its roots.
type Repo struct {
	Dir       string
	Root      *manifest.Root // the newest
	RootData  []byte         // its file
	roots     []*manifest.Root
	rootFiles Files
}

// Open reads the roots of a folder that phase-sign init made. Each root must be signed as
// a successor of the one before: a machine that is served any other boots nothing.
func Open(ctx context.Context, dir string) (*Repo, error) {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("repository %s: %w; make one with phase-sign init", dir, fs.ErrNotExist)
	case err != nil:
		return nil, fmt.Errorf("repository: %w", err)
	case !info.IsDir():
		return nil, fmt.Errorf("repository %s: is a file (%w); name the folder that phase-sign init made", dir, fs.ErrInvalid)
	}
	r := &Repo{Dir: dir, rootFiles: Files{}}
	version, err := r.files().Newest(metadata.ROOT)
	if err != nil {
		return nil, fmt.Errorf("repository: %w", err)
	}
	if version == 0 {
		return nil, fmt.Errorf("repository %s: no root in it: %w; make one with phase-sign init", dir, fs.ErrNotExist)
	}
	return r, r.followRoots(ctx, version)
}

// followRoots verifies the chain from the first root to the newest.
func (r *Repo) followRoots(ctx context.Context, newest int64) (err error) {
	for v := int64(1); v <= newest; v++ {
		name := manifest.FileName(metadata.ROOT, v)
		if r.RootData, err = r.read(ctx, name, manifest.KindRoot); err != nil {
			return err
		}
		if r.Root == nil {
			r.Root, err = manifest.ParseRoot(r.RootData)
		} else {
			r.Root, err = r.Root.Next(r.RootData)
		}
		if err != nil {
			return fmt.Errorf("repository %s: %w", r.Dir, err)
		}
		r.roots, r.rootFiles[name] = append(r.roots, r.Root), r.RootData
	}
	return nil
}

func (r *Repo) files() manifest.DirFetcher { return manifest.DirFetcher(r.Dir) }

func (r *Repo) read(ctx context.Context, name string, kind manifest.Kind) ([]byte, error) {
	data, err := r.files().Metadata(ctx, name, kind.Max())
	if err != nil {
		return nil, fmt.Errorf("repository %s: %s: %w", r.Dir, name, err)
	}
	return data, nil
}

// newestTargets returns the newest targets.json, which the newest root must have signed.
func (r *Repo) newestTargets(ctx context.Context) (manifest.File, error) {
	version, err := r.files().Newest(metadata.TARGETS)
	if err != nil {
		return manifest.File{}, fmt.Errorf("repository: %w", err)
	}
	data, err := r.read(ctx, manifest.FileName(metadata.TARGETS, version), manifest.KindTargets)
	if err != nil {
		return manifest.File{}, err
	}
	if err := r.Root.CheckSigned(manifest.KindTargets, data); err != nil {
		return manifest.File{}, fmt.Errorf("repository %s: version %d: %w; get the newest from the signer", r.Dir, version, err)
	}
	return manifest.File{Role: metadata.TARGETS, Version: version, Data: data}, nil
}

// Published is the timestamp of a repository and the snapshot that it names.
type Published struct {
	timestamp *metadata.Metadata[metadata.TimestampType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	data      struct{ timestamp, snapshot []byte }
}

// Published reads the timestamp and its snapshot. It returns nil when nothing is
// published yet, and checks no signature.
func (r *Repo) Published(ctx context.Context) (*Published, error) {
	var p Published
	var err error
	p.data.timestamp, err = r.read(ctx, manifest.FileName(metadata.TIMESTAMP, 0), manifest.KindTimestamp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if p.timestamp, err = manifest.Parse[metadata.TimestampType](manifest.KindTimestamp, p.data.timestamp); err != nil {
		return nil, fmt.Errorf("repository %s: timestamp.json: %w", r.Dir, err)
	}
	name := manifest.FileName(metadata.SNAPSHOT, p.snapshotVersion())
	if p.data.snapshot, err = r.read(ctx, name, manifest.KindSnapshot); err != nil {
		return nil, err
	}
	if p.snapshot, err = manifest.Parse[metadata.SnapshotType](manifest.KindSnapshot, p.data.snapshot); err != nil {
		return nil, fmt.Errorf("repository %s: %s: %w", r.Dir, name, err)
	}
	return &p, nil
}

// TimestampVersion is the version of the timestamp; 0 when nothing is published.
func (p *Published) TimestampVersion() int64 {
	if p == nil {
		return 0
	}
	return p.timestamp.Signed.Version
}

func (p *Published) snapshotVersion() int64 {
	return p.timestamp.Signed.Meta["snapshot.json"].Version
}

// roleVersion is the published version of a delegated role; 0 when it has none.
func (p *Published) roleVersion(role string) int64 {
	if p.snapshot == nil || p.snapshot.Signed.Meta[role+".json"] == nil {
		return 0
	}
	return p.snapshot.Signed.Meta[role+".json"].Version
}

// expires is the earlier expiry of timestamp and snapshot, the two files that the online
// key can renew.
func (p *Published) expires() time.Time {
	return slices.MinFunc([]time.Time{p.timestamp.Signed.Expires, p.snapshot.Signed.Expires}, time.Time.Compare)
}

// CheckOnlineKey refuses an online key that root.json does not list.
func (r *Repo) CheckOnlineKey(public ed25519.PublicKey) error {
	for _, role := range []string{metadata.SNAPSHOT, metadata.TIMESTAMP} {
		keys, _ := r.Root.Keys(role)
		if !slices.ContainsFunc(keys, func(k ed25519.PublicKey) bool { return k.Equal(public) }) {
			return fmt.Errorf("online key: root.json of %s does not name it for %s.json (%w); name the right --online-key", r.Dir, role, manifest.ErrSignature)
		}
	}
	return nil
}

// lock keeps other processes from changing the repository until release is called. It
// waits for another that has the lock until ctx ends.
func (r *Repo) lock(ctx context.Context) (release func(), err error) {
	f, err := file.OpenFile(filepath.Join(r.Dir, lockName), os.O_RDWR|os.O_CREATE|file.NoFollow, 0o644)
	if err != nil {
		return nil, fmt.Errorf("repository: %w; signatures are renewed in it, so it must be writable", err)
	}
	if err = file.Lock(ctx, f); err == nil {
		return func() { f.Close() }, nil
	}
	f.Close()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("repository %s: another process is changing it: %w", r.Dir, err)
	}
	return nil, fmt.Errorf("repository %s: lock: %w", r.Dir, err)
}

const lockName = ".lock"
