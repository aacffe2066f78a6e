package pack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// Rewrite is Put for a block that is listed but was found damaged: it writes the section of
// the block again at its offset. The CID determines every byte of the section. The write is
// not synced: after a power cut the hash of the block shows whether it is damaged, as before.
func (p *Store) Rewrite(ctx context.Context, c cid.Cid, data []byte) error {
	if err := cas.CheckPut(c, data); err != nil {
		return err
	}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if err := p.checkWritable(ctx); err != nil {
		return err
	}
	key := sectionKey([]byte(c.KeyString()))
	section := appendSection(nil, key, data)
	path, at, err := p.locate(c, int64(len(section)))
	if errors.Is(err, fs.ErrNotExist) {
		return p.add(key, data)
	}
	if err != nil {
		return err
	}
	f, err := openFile(path, os.O_WRONLY)
	if err != nil {
		return fmt.Errorf("store: %w", withRemedy(err))
	}
	if err := errors.Join(p.opts.disk.writeAt(f, section, at), f.Close()); err != nil {
		return fmt.Errorf("pack %s: %w", path, withRemedy(err))
	}
	return nil
}

// locate returns the path of the pack and the offset of the section of a block, which has n
// bytes. The error wraps fs.ErrNotExist when no index lists c, or the pack ends before n bytes.
func (p *Store) locate(c cid.Cid, n int64) (path string, at int64, err error) {
	place := func(k *pack, offset int64, tmp *scratch) (section, error) {
		if offset+n > k.flushed {
			return section{}, fmt.Errorf("no room for block %s: %w", c, cas.ErrCorrupt)
		}
		path, at = k.path, offset
		return readHead(k, offset, k.end, tmp)
	}
	ok, err := p.find(c, place, func(*pack, section) error { return nil })
	if err == nil && !ok {
		err = cas.NotFound(c)
	}
	return path, at, err
}
