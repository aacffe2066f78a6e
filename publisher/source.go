package publisher

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/store"
)

// keptGenerations is how many metadata folders stay readable: a machine that resolved an
// earlier pointer must be able to finish.
const keptGenerations = 3

// A generation is one pointer that the daemon serves, with its verified releases.
type generation struct {
	*repo.Pointer
	releases []manifest.Release
	targets  map[string]manifest.Target // by their path with a hash
	loaded   time.Time
}

// newGeneration lists the targets of verified releases.
func newGeneration(p *repo.Pointer, releases []manifest.Release, now time.Time) (*generation, error) {
	targets, err := p.Targets(releases)
	if err != nil {
		return nil, err
	}
	g := &generation{p, releases, make(map[string]manifest.Target, len(targets)), now}
	for _, t := range targets {
		g.targets[t.HashedPath()] = t
	}
	return g, nil
}

// generations are the newest pointers and the store of artifacts. It is the cas.Source that
// the gateway and Bitswap serve.
type generations struct {
	packs store.Packs

	mu      sync.RWMutex
	list    []*generation // newest first
	changed chan struct{}
}

var _ cas.FileSource = (*generations)(nil) // otherwise the gateway sends no run from the packs

func newGenerations(packs store.Packs) *generations {
	return &generations{packs: packs, changed: make(chan struct{})}
}

// current returns the newest generation and a channel that closes when there is a newer one.
func (s *generations) current() (*generation, <-chan struct{}) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.list) == 0 {
		return nil, s.changed
	}
	return s.list[0], s.changed
}

// add makes the blocks of g readable, as the newest generation.
func (s *generations) add(g *generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append([]*generation{g}, s.list[:min(len(s.list), keptGenerations-1)]...)
}

// notify closes the channel that current returned.
func (s *generations) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// roots lists the metadata folders and artifact roots of all generations, each once.
func (s *generations) roots() []cid.Cid {
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
	for _, g := range s.list {
		add(g.Folder)
		for _, a := range repo.Artifacts(g.releases...) {
			add(a.CID)
		}
	}
	return out
}

// metadata returns a block of a metadata folder, false when no generation has it.
func (s *generations) metadata(ctx context.Context, c cid.Cid) ([]byte, bool) {
	for _, g := range s.all() {
		if data, err := g.Blocks.Block(ctx, c); err == nil {
			return data, true
		}
	}
	return nil, false
}

// file returns a metadata file of the newest generation that has one of that name: a TUF client may
// have read an earlier timestamp.
func (s *generations) file(name string) ([]byte, error) {
	for _, g := range s.all() {
		if data, ok := g.Files[name]; ok {
			return data, nil
		}
	}
	return nil, fmt.Errorf("metadata %.80q: %w", name, fs.ErrNotExist)
}

// target returns the target with a hash in its path.
func (s *generations) target(path string) (gateway.File, error) {
	for _, g := range s.all() {
		if t, ok := g.targets[path]; ok {
			return gateway.File{CID: t.CID, Length: t.Length, SHA256: t.SHA256}, nil
		}
	}
	return gateway.File{}, fmt.Errorf("target %.80q: %w", path, fs.ErrNotExist)
}

// all returns the generations, newest first.
func (s *generations) all() []*generation {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.list
}

// Block reads from the metadata folders, then from the store.
func (s *generations) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if data, ok := s.metadata(ctx, c); ok {
		return data, nil
	}
	return s.packs.Block(ctx, c)
}

// AppendBlock appends a block to b. The gateway builds a CAR with it.
func (s *generations) AppendBlock(ctx context.Context, c cid.Cid, size int, b []byte) ([]byte, error) {
	if data, ok := s.metadata(ctx, c); ok {
		return append(b, data...), nil
	}
	files, ok := s.packs.(cas.FileSource)
	if !ok {
		data, err := s.packs.Block(ctx, c)
		return append(b, data...), err
	}
	return files.AppendBlock(ctx, c, size, b)
}

// Has reports whether Block has a block.
func (s *generations) Has(ctx context.Context, c cid.Cid) (bool, error) {
	if _, ok := s.metadata(ctx, c); ok {
		return true, nil
	}
	return s.packs.Has(ctx, c)
}

// OpenBlock opens the pack with a leaf of an artifact. A store in an object store has none that
// could be opened: the gateway then reads its blocks one by one.
func (s *generations) OpenBlock(ctx context.Context, c cid.Cid) (*os.File, int64, error) {
	files, ok := s.packs.(cas.FileSource)
	if !ok {
		return nil, 0, cas.NotFound(c)
	}
	return files.OpenBlock(ctx, c)
}
