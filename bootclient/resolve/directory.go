package resolve

import (
	"context"
	"fmt"
	"io/fs"
	"sync"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// A Directory is the metadata directory of one pointer. It is read block by block when
// manifest.Verify asks for a file, and keeps the files that it read. It is a manifest.Fetcher.
type Directory struct {
	root   cid.Cid
	src    cas.Source
	memory *cas.Memory // the blocks that were read, if src keeps them there

	mu      sync.Mutex
	entries map[string]cid.Cid
	files   map[string][]byte
}

// NewDirectory returns the metadata directory with a CID, read from src.
func NewDirectory(root cid.Cid, src cas.Source) *Directory {
	return &Directory{root: root, src: src}
}

// Unread lists the files that were not read.
func (md *Directory) Unread() []cid.Cid {
	md.mu.Lock()
	defer md.mu.Unlock()
	var out []cid.Cid
	for name, c := range md.entries {
		if _, read := md.files[name]; !read {
			out = append(out, c)
		}
	}
	return out
}

// Metadata returns a file of the directory. The error wraps fs.ErrNotExist only if the verified
// listing of the directory lacks the file. A block that no source sends is another error.
func (md *Directory) Metadata(ctx context.Context, name string, max int64) ([]byte, error) {
	md.mu.Lock()
	defer md.mu.Unlock()
	if err := md.list(ctx); err != nil {
		return nil, err
	}
	c, ok := md.entries[name]
	if !ok {
		return nil, fmt.Errorf("%.80q in folder %s: %w", name, md.root, fs.ErrNotExist)
	}
	data, ok := md.files[name]
	if !ok {
		var err error
		if data, err = cas.ReadFile(ctx, md.src, c, max); err != nil {
			return nil, fmt.Errorf("%.80q in folder %s: %w", name, md.root, err)
		}
		md.files[name] = data
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("%.80q in folder %s: %d bytes, at most %d are read: %w", name, md.root, len(data), max, cas.ErrCorrupt)
	}
	return data, nil
}

func (md *Directory) list(ctx context.Context) error {
	if md.entries != nil {
		return nil
	}
	entries, err := cas.ReadDir(ctx, md.src, md.root)
	if err != nil {
		return fmt.Errorf("metadata folder: %w", err)
	}
	md.entries, md.files = map[string]cid.Cid{}, map[string][]byte{}
	for _, e := range entries {
		md.entries[e.Name] = e.CID
	}
	return nil
}
