package cas

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
)

// DefaultMaxPack is where a pack is sealed and the next one begun, in bytes. Sealing waits
// for the disk, so a release should fit a pack; collecting rewrites a pack, so not many.
const DefaultMaxPack = 4 << 30

// PackOptions say how a folder of packs is opened.
type PackOptions struct {
	ReadOnly bool         // nothing is written, and a writer may run beside us
	Log      *slog.Logger // what was mended on opening; nil for silence
	MaxPack  int64        // bytes, DefaultMaxPack when 0, at most 1 TiB
	// Lazy: to seal a pack does not wait for the disk, only Sync, Collect and Close do. A
	// power cut before them may leave blocks that are listed and damaged.
	Lazy bool

	disk  disk // nil: the real one
	loose int  // sealed packs that are not merged at most, maxLoose when 0
	files int  // of sealed packs that are open at most, maxOpen when 0
}

// Stats say what a store holds.
type Stats struct {
	Blocks int64 `json:"blocks"`
	Bytes  int64 `json:"bytes"` // of the packs
	Packs  int64 `json:"packs"`
}

// Packs is a Store in a folder of packs: CAR files pack-N.car that only grow, with a
// sorted index pack-N.idx beside each, and packs.idx, one index merged from those of most
// packs. The newest pack may be open for appending; the others are sealed. Data is synced
// before it is indexed (of a Lazy writer afterwards), so what an index names survives a power
// cut; what follows the last index is scanned and hashed when the next writer opens the
// folder, and cut off where it is torn.
//
// One process writes at a time. Any number of others read, and see what the
// writer has synced.
type Packs struct {
	dir  string
	opts PackOptions
	log  *slog.Logger
	lock *os.File // the writer's

	mu     sync.RWMutex
	packs  []*pack // by number
	loose  []*pack // those of them for which the merged index does not speak
	all    *merged // nil: none
	closed bool

	pool    filePool
	samples atomic.Int64 // of indexes in memory
	tabled  atomic.Int64 // blocks of a reader's tables in memory

	seen   time.Time // the folder's mtime at the last look
	looked time.Time // when that was

	w writer
}

var _ Store = (*Packs)(nil)

// OpenPacks is OpenPacksContext without an end.
func OpenPacks(dir string, opts PackOptions) (*Packs, error) {
	return OpenPacksContext(context.Background(), dir, opts)
}

// OpenPacksContext opens the store in dir and, unless ReadOnly, creates it and takes the
// writer's lock: while another process has it, the error names that process. What is read
// for that is bounded by what the packs can hold, and ends with ctx. Only regular files
// of the folder count. A lock of another kind wraps ErrCorrupt.
func OpenPacksContext(ctx context.Context, dir string, opts PackOptions) (*Packs, error) {
	if opts.MaxPack == 0 {
		opts.MaxPack = DefaultMaxPack
	}
	if opts.disk == nil {
		opts.disk = osDisk{}
	}
	if opts.loose == 0 {
		opts.loose = maxLoose
	}
	if opts.MaxPack < 0 || opts.MaxPack > maxPack {
		return nil, fmt.Errorf("store %s: packs of at most %d bytes: %w", dir, opts.MaxPack, fs.ErrInvalid)
	}
	p := &Packs{dir: dir, opts: opts, log: opts.Log, pool: filePool{max: cmp.Or(opts.files, maxOpen)}}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	open := p.openWriter
	if opts.ReadOnly {
		open = p.rescan
	}
	if err := open(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Block returns the bytes under c, unchecked: read through Get. A block that is not
// there wraps fs.ErrNotExist, a damaged pack ErrCorrupt.
func (p *Packs) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	return p.AppendBlock(ctx, c, nil)
}

// AppendBlock is Block into the room that b has behind its end, or more if need be.
func (p *Packs) AppendBlock(ctx context.Context, c cid.Cid, b []byte) ([]byte, error) {
	n := len(b)
	err := p.lookup(ctx, c, headOnly, func(k *pack, s section) error {
		b = slices.Grow(b[:n], s.size)[:n+s.size]
		return k.read(c, s, b[n:])
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Open opens the pack that holds c for reading, and returns it with the offset of c's
// section in it, unchecked: a varint of the lengths of CID and block together, the CID, the
// block. What was added together mostly stands together: whoever reads on compares names.
// A block that is not there wraps fs.ErrNotExist.
func (p *Packs) Open(ctx context.Context, c cid.Cid) (f *os.File, offset int64, err error) {
	var path string
	at := func(k *pack, from int64, tmp *scratch) (section, error) {
		path, offset = k.path, from
		return readHead(k, from, k.end, tmp)
	}
	err = p.lookup(ctx, c, at, func(*pack, section) (err error) {
		f, err = openFile(path, os.O_RDONLY)
		return err
	})
	return f, offset, err
}

// sized is Block for one of size bytes, which is read at once with its head, into room, if
// there is enough.
func (p *Packs) sized(ctx context.Context, c cid.Cid, size int, room []byte) ([]byte, error) {
	var data []byte
	whole := func(k *pack, offset int64, tmp *scratch) (section, error) {
		data = nil
		n := sectionLen(size)
		if n > int64(len(room)) || n > k.end-offset {
			return readHead(k, offset, k.end, tmp)
		}
		if _, err := k.ReadAt(room[:n], offset); err != nil {
			return section{}, cutShort(err)
		}
		s, err := parseHead(room[:n], offset)
		if err == nil && s.size == size {
			data = room[n-int64(size) : n]
			return s, nil
		}
		return readHead(k, offset, k.end, tmp)
	}
	err := p.lookup(ctx, c, whole, func(k *pack, s section) error {
		if data != nil {
			return nil
		}
		data = make([]byte, s.size)
		return k.read(c, s, data)
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// Has reports whether an index lists c and its pack has a section for it.
func (p *Packs) Has(ctx context.Context, c cid.Cid) (bool, error) {
	err := p.lookup(ctx, c, headOnly, func(*pack, section) error { return nil })
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// lookup calls found with the place of c, under the read lock. A reader that misses looks
// at the folder again.
func (p *Packs) lookup(ctx context.Context, c cid.Cid, read reader, found func(*pack, section) error) error {
	if err := CheckCID(c); err != nil {
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
	return NotFound(c)
}

func (p *Packs) find(c cid.Cid, read reader, found func(*pack, section) error) (bool, error) {
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

// A reader reads the section at an offset of a pack: its head, at least.
type reader func(k *pack, offset int64, tmp *scratch) (section, error)

func headOnly(k *pack, offset int64, tmp *scratch) (section, error) {
	return readHead(k, offset, k.end, tmp)
}

// search calls try for every section of key, until it says true: in the packs that are
// not merged, the newest first, and in the others at once. What an index says is compared
// with the pack: a section with another name is none. An index that cannot be read costs
// what only it knows. p.mu is held.
func (p *Packs) search(key sectionKey, read reader, try func(*pack, section) bool) (bool, error) {
	tmp := scratches.Get().(*scratch)
	defer scratches.Put(tmp)
	var left error
	check := func(k *pack, offset int64) bool {
		s, err := read(k, offset, tmp)
		if err != nil && !unusable(err) {
			left = errors.Join(left, fmt.Errorf("pack %s: %w", k.path, err))
		}
		return err == nil && s.key == key && try(k, s)
	}
	for _, k := range slices.Backward(p.loose) {
		ok, err := k.find(&key, tmp, check)
		if ok {
			return true, nil
		}
		left = errors.Join(left, known(err))
	}
	ok, err := p.all.find(&key, tmp, check)
	if ok {
		return true, nil
	}
	return false, errors.Join(left, known(err))
}

// known is err, unless it says that a file went away, which a reader finds out anyway.
func known(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Stats counts blocks, bytes and packs as the indexes tell them.
func (p *Packs) Stats(ctx context.Context) (Stats, error) {
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

// Close syncs what was put and gives the lock back. Closing twice is no error.
func (p *Packs) Close() error {
	err := p.closeWriter()
	p.mu.Lock()
	defer p.mu.Unlock()
	err = errors.Join(err, closePacks(p.packs))
	err = errors.Join(err, p.all.close())
	p.packs, p.loose, p.all, p.closed = nil, nil, nil, true
	if p.lock != nil {
		err = errors.Join(err, p.lock.Close())
		p.lock = nil
	}
	return err
}

func (p *Packs) errClosed() error { return fmt.Errorf("store %s: %w", p.dir, fs.ErrClosed) }

func (p *Packs) packPath(num int) string {
	return filepath.Join(p.dir, packName(num))
}

func packName(num int) string { return fmt.Sprintf("pack-%08d.car", num) }

// packNumber is the number of a pack's file, 0 of any other.
func packNumber(name string) int {
	var num int
	if _, err := fmt.Sscanf(name, "pack-%08d.car", &num); err != nil || num < 0 || packName(num) != name {
		return 0
	}
	return num
}

func (p *Packs) indexPath(num int) string {
	return filepath.Join(p.dir, fmt.Sprintf("pack-%08d.idx", num))
}

// list returns the numbers of the packs in the folder, ascending.
func (p *Packs) list() ([]int, error) {
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
		return nil, fmt.Errorf("store %s: more than %d packs: %w", p.dir, maxPacks, ErrCorrupt)
	}
	slices.Sort(nums)
	return nums, nil
}
