package publisher

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// folderChunker makes one raw leaf of a metadata file, whatever its size within the
// limits of manifest.
const folderChunker = "size-1048576"

// generations is how many heads stay readable: a machine that resolved the last one
// must be able to finish.
const generations = 3

// A Head is the metadata folder of one moment, as blocks in memory. It is a pure
// function of the repository's files: two publishers of the same files name the same
// folder.
type Head struct {
	Folder    cid.Cid
	Timestamp int64 // version, and sequence number of the IPNS record
	Expires   time.Time
	Names     []string // of the files, sorted

	taken    time.Time          // when a daemon began to serve it
	releases []manifest.Release // what it holds, verified; nil before that
	snapshot int64              // version
	blocks   *cas.Memory
}

// ReadHead builds the metadata folder of a repository: every root, and what the
// timestamp and its snapshot name. It checks no signature. A repository without a
// release wraps fs.ErrNotExist.
func ReadHead(ctx context.Context, dir string) (*Head, error) { return readHead(ctx, dir) }

func readHead(ctx context.Context, dir string) (*Head, error) {
	r := &repo{dir: dir}
	p, err := r.published(ctx)
	if err != nil {
		return nil, err
	}
	if p == nil {
		return nil, noRelease(dir)
	}
	files := map[string][]byte{
		manifest.FileName(roleTimestamp, 0):                  p.data.timestamp,
		manifest.FileName(roleSnapshot, p.snapshotVersion()): p.data.snapshot,
	}
	if err := r.addNamed(ctx, files, p); err != nil {
		return nil, err
	}
	if err := r.addRoots(ctx, files); err != nil {
		return nil, err
	}
	h := &Head{Timestamp: p.timestamp.Signed.Version, Expires: p.expires(), snapshot: p.snapshotVersion(), blocks: cas.NewMemory()}
	return h, h.build(ctx, files)
}

func noRelease(dir string) error {
	return fmt.Errorf("repository %s: no release yet: %w; add one with phase-publish add", dir, fs.ErrNotExist)
}

// addNamed reads targets.json and the roles in the versions that the snapshot names.
func (r *repo) addNamed(ctx context.Context, files map[string][]byte, p *published) error {
	for role, meta := range p.snapshot.Signed.Meta {
		name := manifest.FileName(strings.TrimSuffix(role, ".json"), meta.Version)
		data, err := r.read(ctx, name, manifest.KindRole)
		if err != nil {
			return err
		}
		files[name] = data
	}
	return nil
}

func (r *repo) addRoots(ctx context.Context, files map[string][]byte) error {
	newest, err := r.files().Newest(roleRoot)
	if err != nil {
		return fmt.Errorf("repository: %w", err)
	}
	for v := newest; v >= 1; v-- {
		name := manifest.FileName(roleRoot, v)
		data, err := r.read(ctx, name, manifest.KindRoot)
		if err != nil {
			return err
		}
		files[name] = data
	}
	return nil
}

func (h *Head) build(ctx context.Context, files map[string][]byte) error {
	entries := make([]cas.Entry, 0, len(files))
	for name, data := range files {
		f, err := cas.AddFile(ctx, h.blocks.Put, bytes.NewReader(data), folderChunker)
		if err != nil {
			return fmt.Errorf("metadata folder: %s: %w", name, err)
		}
		entries = append(entries, cas.Entry{Name: name, CID: f.CID, Size: f.Size})
		h.Names = append(h.Names, name)
	}
	slices.Sort(h.Names)
	var err error
	if h.Folder, err = cas.AddDir(ctx, h.blocks.Put, entries); err != nil {
		return fmt.Errorf("metadata folder: %w", err)
	}
	return nil
}

// heads keeps the newest Head and a few before it, over the store of artifacts. It is
// the cas.Source that a publisher serves.
type heads struct {
	store *cas.Packs

	mu      sync.RWMutex
	list    []*Head // newest first
	changed chan struct{}
}

func newHeads(store *cas.Packs) *heads {
	return &heads{store: store, changed: make(chan struct{})}
}

// current returns the newest head and a channel that closes when there is a newer one.
func (s *heads) current() (*Head, <-chan struct{}) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.list) == 0 {
		return nil, s.changed
	}
	return s.list[0], s.changed
}

// add makes the blocks of h readable, as the newest head.
func (s *heads) add(h *Head) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append([]*Head{h}, s.list[:min(len(s.list), generations-1)]...)
}

// announced lists the folders and artifact roots of all that is kept, each once.
func (s *heads) announced() []cid.Cid {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []cid.Cid
	seen := map[cid.Cid]bool{}
	add := func(c cid.Cid) {
		if !seen[c] {
			seen[c] = true
			out = append(out, c)
		}
	}
	for _, h := range s.list {
		add(h.Folder)
		for _, r := range h.releases {
			for _, a := range r.Artifacts {
				add(a.CID)
			}
		}
	}
	return out
}

// tell closes the channel that current gave out.
func (s *heads) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// Block looks in the heads, then in the store.
func (s *heads) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	s.mu.RLock()
	list := s.list
	s.mu.RUnlock()
	for _, h := range list {
		if data, err := h.blocks.Block(ctx, c); err == nil {
			return data, nil
		}
	}
	return s.store.Block(ctx, c)
}

// AppendBlock is Block behind the end of b, as the gateway asks for the blocks of a CAR.
func (s *heads) AppendBlock(ctx context.Context, c cid.Cid, b []byte) ([]byte, error) {
	s.mu.RLock()
	list := s.list
	s.mu.RUnlock()
	for _, h := range list {
		if data, err := h.blocks.Block(ctx, c); err == nil {
			return append(b, data...), nil
		}
	}
	return s.store.AppendBlock(ctx, c, b)
}

// Open is that of the store, for the leaves of artifacts.
func (s *heads) Open(ctx context.Context, c cid.Cid) (*os.File, int64, error) {
	return s.store.Open(ctx, c)
}
