package bucket

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/car"
)

// DefaultMaxPack is the size in bytes at which a pack is uploaded and the next one begins. A writer
// has up to four packs in memory.
const DefaultMaxPack = 32 << 20

// DefaultGrace is how long a pack that Collect replaced stays in the object store: longer than a
// fetch that reads from it, and than an add that has found a block in it.
const DefaultGrace = 24 * time.Hour

const (
	minRefresh  = time.Second // between two lists for blocks that are not found
	readTries   = 3           // of a block with wrong bytes
	parallelGet = 8           // indexes that are read at once
)

// A count is a number of packs and of the blocks in them.
type count struct{ packs, blocks int }

// maxCount is how much may be put into a store. Readers accept twice as much, so that gc has room for what it rewrites.
var maxCount = count{1 << 15, 1 << 24}

// Options are the options of Open.
type Options struct {
	ReadOnly bool          // write nothing; another process may write at the same time
	Log      *slog.Logger  // nil: silent
	MaxPack  int64         // bytes, DefaultMaxPack when 0
	Grace    time.Duration // how long Collect keeps what it replaced
	Cache    CacheOptions

	most count // maxCount, but in tests
}

// Store is a cas.Store in an object store. A writer's blocks are readable at once, and for other
// processes after Sync. A reader finds blocks that were added meanwhile.
type Store struct {
	*Bucket
	opts  Options
	cache *cache
	lease *lease // of a writer

	mu       sync.RWMutex
	packs    []*packed // those that are gone from the object store are nil
	gone     int       // number of those
	refs     []ref     // of all packs, sorted
	building []*building
	changed  time.Time // when the list of packs changed last
	closed   bool

	listing chan struct{} // holds the one caller that lists the packs
	tried   time.Time     // end of the last list, also of one that failed; for the caller that lists
	failed  error         // its error

	w writer
}

var _ cas.Store = (*Store)(nil)

// Open opens the store at an address. Unless ReadOnly, it takes the lease; if another process has
// it, the error wraps pack.ErrBusy. An address without a store is an empty one: see Exists.
func Open(ctx context.Context, name string, o Options) (*Store, error) {
	a, err := ParseAddress(name)
	if err != nil {
		return nil, err
	}
	o.MaxPack, o.most = cmp.Or(o.MaxPack, DefaultMaxPack), cmp.Or(o.most, maxCount)
	if o.MaxPack < 0 || o.MaxPack > maxPackSize-2*cas.MaxBlock {
		return nil, fmt.Errorf("store %s: packs of at most %d bytes: %w", a, o.MaxPack, fs.ErrInvalid)
	}
	b, err := Dial(a, o.Log)
	if err != nil {
		return nil, err
	}
	s := &Store{Bucket: b, opts: o, listing: make(chan struct{}, 1)}
	if s.cache, err = newCache(b, o.Cache); err != nil {
		return nil, err
	}
	if !o.ReadOnly {
		s.w.slots, s.w.own, s.w.ctx = make(chan struct{}, parallelUploads), map[string]bool{}, ctx
		s.w.uploads, s.w.stop = context.WithCancel(context.WithoutCancel(ctx))
		if s.lease, err = takeLease(ctx, b); err != nil {
			return nil, errors.Join(err, s.cache.close())
		}
	}
	if err := s.Refresh(ctx); err != nil {
		if s.lease != nil {
			err = errors.Join(err, s.leave())
		}
		return nil, errors.Join(err, s.cache.close())
	}
	return s, nil
}

// Exists reports whether a writer has ever opened the store at an address.
func Exists(ctx context.Context, name string) (bool, error) {
	a, err := ParseAddress(name)
	if err != nil {
		return false, err
	}
	b, err := Dial(a, nil)
	if err != nil {
		return false, err
	}
	if list, err := b.List(ctx, packFolder, 1); err != nil || len(list) > 0 {
		return len(list) > 0, err
	}
	_, _, err = b.Read(ctx, leaseName, leaseLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Block returns the bytes of c, which hash to it: read them through cas.Get all the same. The
// error wraps fs.ErrNotExist when no index lists the block, cas.ErrCorrupt when the object store has
// other bytes, and cas.ErrUnreachable when it does not answer.
func (s *Store) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if err := s.ready(ctx, c); err != nil {
		return nil, err
	}
	k := key([]byte(c.KeyString()))
	if data, ok := s.inMemory(k); ok {
		return data, nil
	}
	for again := range 2 {
		found, err := s.findOrRefresh(ctx, k)
		if err != nil {
			return nil, err
		}
		var errs error
		for _, at := range found {
			data, err := s.readBlock(ctx, at, c)
			if err == nil {
				return data, nil
			}
			errs = errors.Join(errs, err)
		}
		switch {
		case len(found) == 0:
			return nil, cas.NotFound(c)
		case !errors.Is(errs, fs.ErrNotExist) || errors.Is(errs, cas.ErrUnreachable) || again > 0:
			return nil, errs
		}
		if err := s.Refresh(ctx); err != nil { // a pack was removed since the last list
			return nil, err
		}
	}
	return nil, cas.NotFound(c)
}

// ready returns an error for a CID that is refused, for an ended context and a closed store.
func (s *Store) ready(ctx context.Context, c cid.Cid) error {
	if err := cas.CheckCID(c); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.open()
}

func (s *Store) open() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return fmt.Errorf("store %s: %w", s, fs.ErrClosed)
	}
	return nil
}

// A location is a section in a pack.
type location struct {
	pack *packed
	record
}

// find returns the sections of a key: those in packs in use first.
func (s *Store) find(k key) (found []location) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	prefix := prefixOf(&k)
	i, _ := slices.BinarySearchFunc(s.refs, prefix, func(r ref, prefix uint64) int { return cmp.Compare(r.prefix, prefix) })
	for ; i < len(s.refs) && s.refs[i].prefix == prefix; i++ {
		p := s.packs[s.refs[i].pack]
		if r := p.records[s.refs[i].record]; r.key == k {
			found = append(found, location{p, r})
		}
	}
	slices.SortStableFunc(found, func(a, b location) int { return a.pack.marked.Compare(b.pack.marked) })
	return found
}

// findOrRefresh is find. A reader that does not find the key lists the packs again, but not more
// often than minRefresh.
func (s *Store) findOrRefresh(ctx context.Context, k key) ([]location, error) {
	found := s.find(k)
	if len(found) > 0 || !s.opts.ReadOnly {
		return found, nil
	}
	if err := s.startList(ctx); err != nil {
		return nil, err
	}
	defer s.endList()
	err := s.failed
	if time.Since(s.tried) >= minRefresh {
		err = s.refresh(ctx)
	}
	return s.find(k), err
}

// readBlock reads a section and hashes its block. Wrong bytes are read again, past the cache.
func (s *Store) readBlock(ctx context.Context, at location, c cid.Cid) ([]byte, error) {
	var err error
	for range readTries {
		var section, data []byte
		if section, err = s.cache.read(ctx, at.pack, int64(at.offset), int(at.size)); err != nil {
			return nil, err
		}
		if data, err = checkSection(section, at.record, c); err == nil {
			return data, nil
		}
		err = fmt.Errorf("object %s/%s: bytes %d to %d: %w", s, at.pack.object(), at.offset, at.offset+at.size-1, err)
		s.log.Warn("wrong bytes from the object store, read again", "cause", err)
		s.cache.drop(at.pack, int64(at.offset), int(at.size))
	}
	return nil, err
}

// checkSection returns the block of a section if it is that of the record and hashes to c.
func checkSection(section []byte, r record, c cid.Cid) ([]byte, error) {
	h, ok := car.ParseHead(section)
	if !ok || h.CID != r.key || h.Len+h.Size != len(section) {
		return nil, fmt.Errorf("block %s: another section: %w", c, cas.ErrCorrupt)
	}
	data := section[h.Len:]
	return data, cas.Check(c, data)
}

// Has reports whether an index lists c.
func (s *Store) Has(ctx context.Context, c cid.Cid) (bool, error) {
	if err := s.ready(ctx, c); err != nil {
		return false, err
	}
	k := key([]byte(c.KeyString()))
	if _, ok := s.inMemory(k); ok {
		return true, nil
	}
	found, err := s.findOrRefresh(ctx, k)
	return len(found) > 0, err
}

// Stats returns the numbers of blocks, bytes and packs. A reader lists the packs again.
func (s *Store) Stats(ctx context.Context) (pack.Stats, error) {
	if err := s.open(); err != nil {
		return pack.Stats{}, err
	}
	if s.opts.ReadOnly {
		if err := s.Refresh(ctx); err != nil {
			return pack.Stats{}, err
		}
	}
	var n pack.Stats
	for _, p := range s.inUse() {
		n.Packs++
		n.Blocks += int64(len(p.records))
		n.Bytes += p.size
	}
	return n, nil
}

// Answers asks the object store for one name, and returns nil if it answers.
func (s *Store) Answers(ctx context.Context) error {
	_, err := s.List(ctx, packFolder, 1)
	return err
}

// Changed lists the packs again, and returns when the list changed last.
func (s *Store) Changed(ctx context.Context) (time.Time, error) {
	if err := s.Refresh(ctx); err != nil {
		return time.Time{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.changed, nil
}

// Each calls f for every block, pack by pack, with the number of bytes of its section. A block may
// be in two packs.
func (s *Store) Each(ctx context.Context, f func(c cid.Cid, bytes int64) error) error {
	for _, p := range s.inUse() {
		for _, r := range byOffset(p.records) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := f(r.key.cid(), int64(r.size)); err != nil {
				return err
			}
		}
	}
	return nil
}

// cid returns the CID of a key that parseIndex has checked.
func (k key) cid() cid.Cid {
	c, _ := cid.Cast(k[:])
	return c
}

// Close uploads what was put, and gives the lease back. When the context of Open has ended, or an upload has failed, it
// uploads nothing more, and returns the reason. Closing twice is no error.
func (s *Store) Close() error {
	if s.open() != nil {
		return nil
	}
	var err error
	if s.lease != nil {
		err = s.finish()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.packs, s.refs, s.building = true, nil, nil, nil
	return errors.Join(err, s.cache.close())
}

// inMemory returns a block of a pack that is not uploaded yet.
func (s *Store) inMemory(k key) ([]byte, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, b := range s.building {
		if data, ok := b.block(k); ok {
			return bytes.Clone(data), true
		}
	}
	return nil, false
}
