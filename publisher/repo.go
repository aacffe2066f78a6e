package publisher

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/sys/unix"

	openfile "github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/manifest"
)

// Role names of TUF that the repository's files carry.
const (
	roleRoot      = "root"
	roleTargets   = "targets"
	roleSnapshot  = "snapshot"
	roleTimestamp = "timestamp"
)

// dateless judges signatures and leaves dates alone.
var dateless time.Time

// A repo is a folder of metadata files with its newest root.
type repo struct {
	dir      string
	root     *manifest.Root
	rootData []byte
	roots    []*manifest.Root // all of them, oldest first
}

// openRepo reads the roots of a folder that phase-sign init made. Each must follow the
// one before: a machine that is served one which does not boots nothing.
func openRepo(ctx context.Context, dir string) (*repo, error) {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("repository %s: %w; make one with phase-sign init", dir, fs.ErrNotExist)
	case err != nil:
		return nil, fmt.Errorf("repository: %w", err)
	case !info.IsDir():
		return nil, fmt.Errorf("repository %s: is a file (%w); name the folder that phase-sign init made", dir, fs.ErrInvalid)
	}
	r := &repo{dir: dir}
	version, err := r.files().Newest(roleRoot)
	if err != nil {
		return nil, fmt.Errorf("repository: %w", err)
	}
	if version == 0 {
		return nil, fmt.Errorf("repository %s: no root in it: %w; make one with phase-sign init", dir, fs.ErrNotExist)
	}
	return r, r.followRoots(ctx, version)
}

// followRoots walks from the first root to the newest.
func (r *repo) followRoots(ctx context.Context, newest int64) (err error) {
	for v := int64(1); v <= newest; v++ {
		if r.rootData, err = r.read(ctx, manifest.FileName(roleRoot, v), manifest.KindRoot); err != nil {
			return err
		}
		if r.root == nil {
			r.root, err = manifest.ParseRoot(r.rootData)
		} else {
			r.root, err = r.root.Next(r.rootData)
		}
		if err != nil {
			return fmt.Errorf("repository %s: %w", r.dir, err)
		}
		r.roots = append(r.roots, r.root)
	}
	return nil
}

func (r *repo) files() manifest.DirFetcher { return manifest.DirFetcher(r.dir) }

func (r *repo) read(ctx context.Context, name string, kind manifest.Kind) ([]byte, error) {
	data, err := r.files().Metadata(ctx, name, kind.Max())
	if err != nil {
		return nil, fmt.Errorf("repository %s: %s: %w", r.dir, name, err)
	}
	return data, nil
}

// newestTargets returns the delegations in force, which the newest root must own.
func (r *repo) newestTargets(ctx context.Context) (manifest.File, error) {
	version, err := r.files().Newest(roleTargets)
	if err != nil {
		return manifest.File{}, fmt.Errorf("repository: %w", err)
	}
	data, err := r.read(ctx, manifest.FileName(roleTargets, version), manifest.KindTargets)
	if err != nil {
		return manifest.File{}, err
	}
	if err := r.root.Owns(manifest.KindTargets, data); err != nil {
		return manifest.File{}, fmt.Errorf("repository %s: version %d: %w; get the newest from the signer", r.dir, version, err)
	}
	return manifest.File{Role: roleTargets, Version: version, Data: data}, nil
}

// published is what the repository's timestamp names.
type published struct {
	timestamp *metadata.Metadata[metadata.TimestampType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	data      struct{ timestamp, snapshot []byte }
}

// published reads the timestamp and its snapshot; nil when nothing is published yet.
// It checks no signature.
func (r *repo) published(ctx context.Context) (*published, error) {
	var p published
	var err error
	p.data.timestamp, err = r.read(ctx, manifest.FileName(roleTimestamp, 0), manifest.KindTimestamp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if p.timestamp, err = manifest.Parse[metadata.TimestampType](manifest.KindTimestamp, p.data.timestamp); err != nil {
		return nil, fmt.Errorf("repository %s: timestamp.json: %w", r.dir, err)
	}
	name := manifest.FileName(roleSnapshot, p.snapshotVersion())
	if p.data.snapshot, err = r.read(ctx, name, manifest.KindSnapshot); err != nil {
		return nil, err
	}
	if p.snapshot, err = manifest.Parse[metadata.SnapshotType](manifest.KindSnapshot, p.data.snapshot); err != nil {
		return nil, fmt.Errorf("repository %s: %s: %w", r.dir, name, err)
	}
	return &p, nil
}

// publishedReleases lists what the timestamp names, dates aside.
func (r *repo) publishedReleases(ctx context.Context) ([]manifest.Release, error) {
	return manifest.Published(ctx, r.files(), r.rootData)
}

func (p *published) snapshotVersion() int64 {
	return p.timestamp.Signed.Meta["snapshot.json"].Version
}

// roleVersion is the published version of a delegated role, 0 for none.
func (p *published) roleVersion(role string) int64 {
	if p == nil || p.snapshot.Signed.Meta[role+".json"] == nil {
		return 0
	}
	return p.snapshot.Signed.Meta[role+".json"].Version
}

// expires is the date after which machines refuse what is published, as far as the
// online key can move it.
func (p *published) expires() time.Time {
	t, s := p.timestamp.Signed.Expires, p.snapshot.Signed.Expires
	if s.Before(t) {
		return s
	}
	return t
}

// checkOnline refuses an online key that root.json does not name.
func (r *repo) checkOnline(public ed25519.PublicKey) error {
	for _, role := range []string{roleSnapshot, roleTimestamp} {
		keys, _ := r.root.Keys(role)
		named := false
		for _, k := range keys {
			named = named || k.Equal(public)
		}
		if !named {
			return fmt.Errorf("online key: root.json of %s does not name it for %s.json (%w); name the right --online-key", r.dir, role, manifest.ErrSignature)
		}
	}
	return nil
}

// lock keeps other publishers from changing the repository until release is called.
// The lock goes with the process.
func (r *repo) lock(ctx context.Context) (release func(), err error) {
	f, err := openfile.OpenFile(filepath.Join(r.dir, ".lock"), os.O_RDWR|os.O_CREATE|openfile.NoFollow, 0o644)
	if err != nil {
		return nil, fmt.Errorf("repository: %w; signatures are renewed in it, so it must be writable", err)
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("repository %s: lock: %w", r.dir, err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("repository %s: another process is changing it: %w", r.dir, ctx.Err())
		}
	}
}
