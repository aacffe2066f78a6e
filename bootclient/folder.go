package bootclient

import (
	"context"
	"fmt"
	"io/fs"
	"sync"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// A folder is the metadata folder of one head, read block by block as the check
// asks for its files. It remembers what it read: a second check of the same folder
// needs no network. It is a manifest.Fetcher.
type folder struct {
	root cid.Cid
	src  cas.Source

	blocks sync.Map // every block that was read: []byte by cid.Cid

	mu      sync.Mutex
	entries map[string]cid.Cid
	files   map[string][]byte
}

func newFolder(root cid.Cid, src cas.Source) *folder {
	f := &folder{root: root}
	f.src = recorder{src, func(c cid.Cid, data []byte) { f.blocks.Store(c, data) }}
	return f
}

// unread lists the files that nobody asked for.
func (f *folder) unread() []cid.Cid {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []cid.Cid
	for name, c := range f.entries {
		if _, read := f.files[name]; !read {
			out = append(out, c)
		}
	}
	return out
}

// Metadata returns a file of the folder. The error wraps fs.ErrNotExist only when
// the folder, whose listing is verified, has no such file: a block that nobody gives
// must not pass for a file that does not exist.
func (f *folder) Metadata(ctx context.Context, name string, max int64) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.list(ctx); err != nil {
		return nil, err
	}
	c, ok := f.entries[name]
	if !ok {
		return nil, fmt.Errorf("%.80q in folder %s: %w", name, f.root, fs.ErrNotExist)
	}
	data, ok := f.files[name]
	if !ok {
		var err error
		if data, err = cas.ReadFile(ctx, f.src, c, max); err != nil {
			return nil, fmt.Errorf("%.80q in folder %s: %w", name, f.root, err)
		}
		f.files[name] = data
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("%.80q in folder %s: %d bytes, at most %d are read: %w", name, f.root, len(data), max, cas.ErrCorrupt)
	}
	return data, nil
}

func (f *folder) list(ctx context.Context) error {
	if f.entries != nil {
		return nil
	}
	entries, err := cas.ReadDir(ctx, f.src, f.root)
	if err != nil {
		return fmt.Errorf("metadata folder: %w", err)
	}
	f.entries, f.files = map[string]cid.Cid{}, map[string][]byte{}
	for _, e := range entries {
		f.entries[e.Name] = e.CID
	}
	return nil
}
