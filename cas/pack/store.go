package pack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
)

// DefaultMaxPack is the size in bytes at which a pack is sealed and the next one begins.
// Sealing waits for the disk, so a release should fit into one pack. Collect rewrites whole
// packs, so a pack should not contain many releases.
const DefaultMaxPack = 4 << 30

// Options are the options of Open.
type Options struct {
	ReadOnly bool         // write nothing; another process may write at the same time
	Log      *slog.Logger // reports what was recovered; nil for no reports
	MaxPack  int64        // bytes, DefaultMaxPack when 0, at most 1 TiB
	// Lazy seals a pack without waiting for the disk: only Sync, Collect and Close wait. A
	// power cut before them may leave blocks that are listed but damaged.
	Lazy bool

	disk        disk // nil: the real one
	maxUnmerged int  // most sealed packs that are not merged; defaultMaxUnmerged when 0
}

// Stats are the numbers of blocks, bytes and packs of a store.
type Stats struct {
	Blocks int64 `json:"blocks"`
	Bytes  int64 `json:"bytes"` // of the packs
	Packs  int64 `json:"packs"`
}

// Store is a cas.Store in a folder: packs pack-N.car, an index pack-N.idx next to each, and
// packs.idx, merged from the indexes of most packs. The newest pack may be open for appending;
// the others are sealed. The bytes of a pack that its index does not cover are scanned and hashed
// when the next writer opens the folder, and a torn tail is cut off. Readers in other processes
// see the blocks that the writer has synced.
type Store struct {
	dir  string
	opts Options
	log  *slog.Logger
	lock *os.File // held by a writer

	mu          sync.RWMutex
	packs       []*pack // in the order of their numbers
	unmerged    []*pack // those of them that the merged index does not cover
	mergedIndex *merged // the merged index; nil: none
	closed      bool

	pool        *filePool
	samples     atomic.Int64 // number of samples of indexes in memory
	tableBlocks atomic.Int64 // number of blocks in tables in memory, of a reader

	folderTime time.Time // the folder's mtime when it was listed last
	listedAt   time.Time // when it was listed last

	w writer
}

var (
	_ cas.Store      = (*Store)(nil)
	_ cas.FileSource = (*Store)(nil)
)

// Open is OpenContext with a context that never ends.
func Open(dir string, opts Options) (*Store, error) {
	return OpenContext(context.Background(), dir, opts)
}

// OpenContext opens the store in dir. Unless ReadOnly, it creates the folder and takes the
// writer's lock; if another process holds the lock, the error wraps ErrBusy and names the
// process. It reads at most what packs of this size can need, and stops when ctx ends. Only
// regular files are opened; a lock file of another kind wraps cas.ErrCorrupt.
func OpenContext(ctx context.Context, dir string, opts Options) (*Store, error) {
	opts.MaxPack = cmp.Or(opts.MaxPack, DefaultMaxPack)
	opts.maxUnmerged = cmp.Or(opts.maxUnmerged, defaultMaxUnmerged)
	if opts.disk == nil {
		opts.disk = osDisk{}
	}
	if opts.MaxPack < 0 || opts.MaxPack > maxPack {
		return nil, fmt.Errorf("store %s: packs of at most %d bytes: %w", dir, opts.MaxPack, fs.ErrInvalid)
	}
	p := &Store{dir: dir, opts: opts, pool: newFilePool()}
	p.log = cmp.Or(opts.Log, slog.New(slog.DiscardHandler))
	open := p.openWriter
	if opts.ReadOnly {
		open = p.rescan
	}
	if err := open(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Block returns the bytes of c, unchecked: read them through cas.Get. The error wraps
// fs.ErrNotExist when no index lists the block, and cas.ErrCorrupt for a damaged pack.
func (p *Store) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	return p.AppendBlock(ctx, c, -1, nil)
}

// AppendBlock is Block with the bytes appended to b. A block of the expected size is read
// together with the head of its section, in one read.
func (p *Store) AppendBlock(ctx context.Context, c cid.Cid, size int, b []byte) ([]byte, error) {
	n, read, done := len(b), headOnly, false
	if size >= 0 && size <= cas.MaxBlock {
		b = slices.Grow(b, size)
		read = func(k *pack, offset int64, tmp *scratch) (s section, err error) {
			s, done, err = k.readWhole(offset, b[n:n+size], tmp)
			return s, err
		}
	}
	err := p.lookup(ctx, c, read, func(k *pack, s section) error {
		b = slices.Grow(b[:n], s.size)[:n+s.size]
		if done {
			return nil
		}
		if _, err := k.ReadAt(b[n:], s.offset); err != nil {
			return fmt.Errorf("pack %s: block %s: %w", k.path, c, corruptIfShort(err))
		}
		return nil
	})
	return b, err
}

// OpenBlock opens the pack that contains c and returns it with the offset of c's section. The
// error wraps fs.ErrNotExist when no index lists the block.
func (p *Store) OpenBlock(ctx context.Context, c cid.Cid) (f *os.File, offset int64, err error) {
	err = p.lookup(ctx, c, headOnly, func(k *pack, s section) (err error) {
		offset = s.start()
		f, err = openFile(k.path, os.O_RDONLY)
		return err
	})
	return f, offset, err
}

// Has reports whether an index lists c and the pack has a section for it.
func (p *Store) Has(ctx context.Context, c cid.Cid) (bool, error) {
	err := p.lookup(ctx, c, headOnly, func(*pack, section) error { return nil })
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// lookup finds c and calls found with its pack and section, under the read lock. A reader that
// does not find c lists the folder again, in case a writer has added it.
func (p *Store) lookup(ctx context.Context, c cid.Cid, read sectionReader, found func(*pack, section) error) error {
	if err := cas.CheckCID(c); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	ok, err := p.find(c, read, found)
	if ok || err != nil {
		return err
	}
	if p.opts.ReadOnly {
		if changed, err := p.refresh(ctx); err != nil {
			return err
		} else if changed {
			if ok, err = p.find(c, read, found); ok || err != nil {
				return err
			}
		}
	}
	return cas.NotFound(c)
}

// find is lookup in the packs that are open.
func (p *Store) find(c cid.Cid, read sectionReader, found func(*pack, section) error) (bool, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.closed {
		return false, p.errClosed()
	}
	var err error
	ok, findErr := p.search(sectionKey([]byte(c.KeyString())), read, func(k *pack, s section) bool {
		err = found(k, s)
		return true
	})
	if ok {
		return true, err
	}
	return false, findErr
}

// A sectionReader reads the section at an offset of a pack, or only its head.
type sectionReader func(k *pack, offset int64, tmp *scratch) (section, error)

// headOnly reads only the head of a section.
func headOnly(k *pack, offset int64, tmp *scratch) (section, error) {
	return readHead(k, offset, k.end, tmp)
}

// search calls try for every section of key until try returns true: first in the packs that
// are not merged, the newest first, then in the merged index. It compares each index entry
// with the pack, and skips a section of another key. When an index cannot be read, blocks
// that only this index lists are not found. p.mu is held.
func (p *Store) search(key sectionKey, read sectionReader, try func(*pack, section) bool) (bool, error) {
	tmp := scratches.Get().(*scratch)
	defer scratches.Put(tmp)
	var errs error
	check := func(k *pack, offset int64) bool {
		s, err := read(k, offset, tmp)
		if err != nil && !needsScan(err) {
			errs = errors.Join(errs, fmt.Errorf("pack %s: %w", k.path, err))
		}
		return err == nil && s.key == key && try(k, s)
	}
	for _, k := range slices.Backward(p.unmerged) {
		ok, err := k.find(&key, tmp, check)
		if ok {
			return true, nil
		}
		errs = errors.Join(errs, ignoreNotExist(err))
	}
	ok, err := p.mergedIndex.find(&key, tmp, check)
	if ok {
		return true, nil
	}
	return false, errors.Join(errs, ignoreNotExist(err))
}

// ignoreNotExist returns err, but nil when err says that a file is gone: a reader then lists the
// folder again.
func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Stats returns the numbers of blocks, bytes and packs as the indexes list them.
func (p *Store) Stats(ctx context.Context) (Stats, error) {
	if p.opts.ReadOnly {
		if _, err := p.refresh(ctx); err != nil {
			return Stats{}, err
		}
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.closed {
		return Stats{}, p.errClosed()
	}
	s := Stats{Packs: int64(len(p.packs))}
	for _, k := range p.packs {
		s.Blocks += int64(k.count())
		s.Bytes += k.end
	}
	return s, ctx.Err()
}

// Close syncs all blocks and releases the lock. Closing twice is no error.
func (p *Store) Close() error {
	err := p.closeWriter()
	p.mu.Lock()
	defer p.mu.Unlock()
	err = errors.Join(err, closePacks(p.packs))
	err = errors.Join(err, p.mergedIndex.close())
	p.packs, p.unmerged, p.mergedIndex, p.closed = nil, nil, nil, true
	if p.lock != nil {
		err = errors.Join(err, p.lock.Close())
		p.lock = nil
	}
	return err
}

func (p *Store) errClosed() error { return fmt.Errorf("store %s: %w", p.dir, fs.ErrClosed) }

func (p *Store) packPath(num int) string {
	return filepath.Join(p.dir, packName(num))
}

func packName(num int) string { return fmt.Sprintf("pack-%08d.car", num) }

// packNumber returns the number in the name of a pack's file, 0 for any other name.
func packNumber(name string) int {
	var num int
	if _, err := fmt.Sscanf(name, "pack-%08d.car", &num); err != nil || num < 0 || packName(num) != name {
		return 0
	}
	return num
}

func (p *Store) indexPath(num int) string {
	return filepath.Join(p.dir, fmt.Sprintf("pack-%08d.idx", num))
}

// list returns the numbers of the packs in the folder, ascending.
func (p *Store) list() ([]int, error) {
	entries, err := readFolder(p.dir)
	if err != nil {
		return nil, err
	}
	var nums []int
	for _, e := range entries {
		if num := packNumber(e.Name()); num > 0 && e.Type().IsRegular() {
			nums = append(nums, num)
		}
	}
	if len(nums) > maxPacks {
		return nil, fmt.Errorf("store %s: more than %d packs: %w", p.dir, maxPacks, cas.ErrCorrupt)
	}
	slices.Sort(nums)
	return nums, nil
}
