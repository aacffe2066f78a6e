package cas

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/ipfs/go-cid"
)

// Rewrite is Put for a block that is listed and was found damaged: its section, every byte of
// which its name says, is written again where it stands. That is not synced: what a power
// cut leaves of it is told by its hash, as before.
func (p *Packs) Rewrite(ctx context.Context, c cid.Cid, data []byte) error {
	if err := checkPut(c, data); err != nil {
		return err
	}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if err := p.writable(ctx); err != nil {
		return err
	}
	key := sectionKey([]byte(c.KeyString()))
	section := appendSection(nil, key, data)
	path, at, err := p.stands(c, int64(len(section)))
	if errors.Is(err, fs.ErrNotExist) {
		return p.add(key, data)
	}
	if err != nil {
		return err
	}
	f, err := openFile(path, os.O_WRONLY)
	if err != nil {
		return fmt.Errorf("store: %w", hint(err))
	}
	if err := errors.Join(p.opts.disk.writeAt(f, section, at), f.Close()); err != nil {
		return fmt.Errorf("pack %s: %w", path, hint(err))
	}
	return nil
}

// stands is where a section of n bytes of a block is in the file of its pack. One that has
// no such room wraps fs.ErrNotExist.
func (p *Packs) stands(c cid.Cid, n int64) (path string, at int64, err error) {
	place := func(k *pack, offset int64, tmp *scratch) (section, error) {
		if offset+n > k.flushed {
			return section{}, fmt.Errorf("no room for block %s: %w", c, ErrCorrupt)
		}
		path, at = k.path, offset
		return readHead(k, offset, k.end, tmp)
	}
	ok, err := p.find(c, place, func(*pack, section) error { return nil })
	if err == nil && !ok {
		err = NotFound(c)
	}
	return path, at, err
}
