package resolve

import (
	"context"
	"fmt"
	"io/fs"
	"sync"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// A Directory is the metadata directory of one pointer. It is read block by block when
// manifest.Verify asks for a file. It is a manifest.Fetcher.
type Directory struct {
	root    cid.Cid
	src     cas.Source
	memory  *cas.Memory // keeps the blocks that were read; nil without Unread
	entries map[string]cid.Cid

	roles   []string                    // whose newest files are read ahead
	ahead   map[cid.Cid]<-chan struct{} // closed when a file was read ahead, or could not be
	reading sync.WaitGroup
}

// NewDirectory returns the metadata directory with a CID, read from src.
func NewDirectory(root cid.Cid, src cas.Source) *Directory {
	return &Directory{root: root, src: src}
}

// Unread lists the files that were not read. A nil directory has none.
func (md *Directory) Unread() (out []cid.Cid) {
	if md == nil {
		return nil
	}
	for _, c := range md.entries {
		if read, _ := md.memory.Has(context.Background(), c); !read {
			out = append(out, c)
		}
	}
	return out
}

// Metadata returns a file of the directory. The error wraps fs.ErrNotExist only if the verified
// listing of the directory lacks the file. A block that no source sends is another error.
func (md *Directory) Metadata(ctx context.Context, name string, max int64) ([]byte, error) {
	if err := md.list(ctx); err != nil {
		return nil, err
	}
	c, ok := md.entries[name]
	if !ok {
		return nil, fmt.Errorf("%.80q in folder %s: %w", name, md.root, fs.ErrNotExist)
	}
	if done, ok := md.ahead[c]; ok {
		select {
		case <-done:
		case <-ctx.Done():
		}
	}
	data, err := cas.ReadFile(ctx, md.src, c, max)
	if err != nil {
		return nil, fmt.Errorf("%.80q in folder %s: %w", name, md.root, err)
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
	md.entries = map[string]cid.Cid{}
	for _, e := range entries {
		md.entries[e.Name] = e.CID
	}
	md.readAhead(ctx)
	return nil
}

// readAhead begins to read the newest files of md.roles into the memory, all at once: manifest.Verify
// asks for one after another, and each would cost a round trip. A file without a version in its name is
// the newest. Errors do not matter: Metadata reads the file again.
func (md *Directory) readAhead(ctx context.Context) {
	md.ahead = map[cid.Cid]<-chan struct{}{}
	for _, role := range md.roles {
		c, newest := cid.Undef, int64(-1)
		for name, entry := range md.entries {
			if r, version, ok := manifest.SplitFile(name); ok && r == role && version > newest {
				c, newest = entry, version
			}
		}
		if _, twice := md.ahead[c]; twice || !c.Defined() {
			continue
		}
		done := make(chan struct{})
		md.ahead[c] = done
		md.reading.Go(func() {
			defer close(done)
			cas.Get(ctx, md.src, c)
		})
	}
}
