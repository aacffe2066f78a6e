package pack

import (
	"context"
	"errors"
	"fmt"
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
	bytes, path, at := appendSection(nil, key, data), "", int64(0)
	_, err := p.find(c, headOnly, func(k *pack, s section) error {
		if s.start()+int64(len(bytes)) <= k.flushed {
			path, at = k.path, s.start()
		}
		return nil
	})
	if err != nil {
		return err
	}
	if path == "" {
		return p.add(key, data)
	}
	f, err := openFile(path, os.O_WRONLY)
	if err != nil {
		return fmt.Errorf("store: %w", withRemedy(err))
	}
	if err := errors.Join(p.opts.disk.writeAt(f, bytes, at), f.Close()); err != nil {
		return fmt.Errorf("pack %s: %w", path, withRemedy(err))
	}
	return nil
}
