package repo

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// folderChunker makes one raw leaf of a metadata file: the limits of manifest are smaller.
const folderChunker = "size-1048576"

// A Pointer is what the channel's IPNS name points to at one moment: the metadata folder,
// with its blocks in memory. It is a pure function of the repository's files, so two
// publishers of the same files point to the same folder.
type Pointer struct {
	Folder    cid.Cid
	Timestamp int64 // version, and sequence number of the IPNS record
	Snapshot  int64 // version
	Expires   time.Time
	Published *Published
	Files     Files
	Blocks    *cas.Memory
}

// ReadPointer builds the metadata folder of the repository: the roots that Open has read, and
// what the timestamp and its snapshot name. It checks no signature. A repository without a
// release wraps fs.ErrNotExist.
func (r *Repo) ReadPointer(ctx context.Context) (*Pointer, error) {
	p, err := r.Published(ctx)
	if err != nil {
		return nil, err
	}
	if p == nil {
		return nil, r.NoRelease()
	}
	files := maps.Clone(r.rootFiles)
	files[manifest.FileName(metadata.TIMESTAMP, 0)] = p.data.timestamp
	files[manifest.FileName(metadata.SNAPSHOT, p.snapshotVersion())] = p.data.snapshot
	for role, meta := range p.snapshot.Signed.Meta { // targets.json and the releases
		name := manifest.FileName(strings.TrimSuffix(role, ".json"), meta.Version)
		if files[name], err = r.read(ctx, name, manifest.KindRole); err != nil {
			return nil, err
		}
	}
	out := &Pointer{
		Timestamp: p.TimestampVersion(), Snapshot: p.snapshotVersion(), Expires: p.expires(), Published: p, Files: files, Blocks: cas.NewMemory(),
	}
	return out, out.build(ctx)
}

// NoRelease is the error of a repository in which nothing is published. It wraps
// fs.ErrNotExist.
func (r *Repo) NoRelease() error {
	return fmt.Errorf("repository %s: no release yet: %w; add one with phase-publish add", r.Dir, fs.ErrNotExist)
}

func (p *Pointer) build(ctx context.Context) error {
	entries := make([]cas.Link, 0, len(p.Files))
	for name, data := range p.Files {
		f, err := cas.AddFile(ctx, p.Blocks.Put, bytes.NewReader(data), folderChunker)
		if err != nil {
			return fmt.Errorf("metadata folder: %s: %w", name, err)
		}
		entries = append(entries, cas.Link{Name: name, CID: f.CID, Tsize: uint64(f.Size)})
	}
	targets, err := p.configTargets()
	if err != nil {
		return err
	}
	for _, t := range targets { // of the metadata, so they are no blocks of the store
		if err := p.Blocks.Put(ctx, t.CID, t.Data); err != nil {
			return fmt.Errorf("target %s: %w", t.Path, err)
		}
	}
	if p.Folder, err = cas.AddDir(ctx, p.Blocks.Put, entries); err != nil {
		return fmt.Errorf("metadata folder: %w", err)
	}
	return nil
}

// CheckReplaces refuses to replace a timestamp, with its newest root version, by an older p. A timestamp that the newest
// root of p does not accept is of an online key that was replaced, after which versions may begin again. The error wraps
// manifest.ErrRollback.
func (p *Pointer) CheckReplaces(timestamp []byte, root int64) error {
	older := func(file string, version, than int64) error {
		return fmt.Errorf("%s version %d is older than version %d (%w)", file, version, than, manifest.ErrRollback)
	}
	version := p.Files.Root()
	if version < root {
		return older("root", version, root)
	}
	doc, err := p.Files.open(metadata.ROOT, version)
	if err != nil {
		return err
	}
	newest, err := doc.Root()
	if err != nil {
		return err
	}
	if newest.CheckSigned(manifest.KindTimestamp, timestamp) != nil {
		return nil
	}
	old, err := manifest.Open(timestamp)
	if err != nil {
		return err
	}
	if v := old.Version(); p.Timestamp < v {
		return older("timestamp", p.Timestamp, v)
	}
	if v := listed(old, metadata.SNAPSHOT); p.Snapshot < v {
		return older("snapshot", p.Snapshot, v)
	}
	return nil
}

// Files are the files of a metadata folder, by name.
type Files map[string][]byte

// Root is the version of the newest root: the first one and all that follow it are in a pointer.
func (f Files) Root() (version int64) {
	for f[manifest.FileName(metadata.ROOT, version+1)] != nil {
		version++
	}
	return version
}

// Timestamp is the file timestamp.json.
func (f Files) Timestamp() []byte { return f[manifest.FileName(metadata.TIMESTAMP, 0)] }

// open reads the file of a role. It checks no signature.
func (f Files) open(role string, version int64) (*manifest.Document, error) {
	return manifest.Open(f[manifest.FileName(role, version)])
}

// Metadata returns a file, as manifest.Fetcher.
func (f Files) Metadata(_ context.Context, name string, limit int64) ([]byte, error) {
	data, ok := f[name]
	if !ok {
		return nil, fmt.Errorf("%.80q: %w", name, fs.ErrNotExist)
	}
	return data[:min(int64(len(data)), limit)], nil
}
