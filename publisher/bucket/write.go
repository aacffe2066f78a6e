package bucket

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/car"
)

// parallelUploads is the number of packs that are uploaded at once.
const parallelUploads = 2

const (
	packType  = "application/vnd.ipld.car"
	bytesType = "application/octet-stream"
)

// writer is the part of a Store that only a writer uses.
type writer struct {
	mu    sync.Mutex    // held during Put, Sync and Collect; locked before Store.mu
	slots chan struct{} // one for each upload
	many  bool          // a pack was full: the next one probably will be

	own map[string]bool // names of the packs that this writer has uploaded; guarded by Store.mu

	ctx     context.Context    // of Open
	uploads context.Context    // of the uploads, which do not end with a Put
	stop    context.CancelFunc // ends them
}

// A building is a pack in memory: the one that grows, the last of Store.building, or one that is
// uploaded.
type building struct {
	name    string
	data    []byte
	records []record
	at      map[key]int // in records
	done    chan error  // has the result of an upload; nil before it began
}

func newBuilding(size int64) *building {
	name := fmt.Sprintf("%012x-%s", time.Now().UnixMilli(), strings.ToLower(rand.Text()))
	return &building{name: name, data: append(make([]byte, 0, size), car.NoRoots...), at: map[key]int{}}
}

func (b *building) block(k key) ([]byte, bool) {
	i, ok := b.at[k]
	if !ok {
		return nil, false
	}
	r := b.records[i]
	section := b.data[r.offset : r.offset+r.size]
	h, _ := car.ParseHead(section) // it was written by append
	return section[h.Len:], true
}

func (b *building) append(k key, data []byte) {
	offset := len(b.data)
	b.data = append(car.AppendHead(b.data, k[:], len(data)), data...)
	b.at[k] = len(b.records)
	b.records = append(b.records, record{k, uint32(offset), uint32(len(b.data) - offset)})
}

// Put adds a block unless the store has it. The block can be read at once; other processes see it,
// and it survives the end of this one, after the next Sync or Close.
func (s *Store) Put(ctx context.Context, c cid.Cid, data []byte) error {
	_, err := s.PutNew(ctx, c, data)
	return err
}

// PutNew is Put, and reports whether the block is new: no pack in use has it.
func (s *Store) PutNew(ctx context.Context, c cid.Cid, data []byte) (bool, error) {
	if err := cas.CheckPut(c, data); err != nil {
		return false, err
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if err := s.writable(ctx); err != nil {
		return false, err
	}
	k := key([]byte(c.KeyString()))
	if s.stored(k) {
		return false, nil
	}
	if err := s.hasRoom(); err != nil {
		return false, err
	}
	return true, s.add(ctx, k, data)
}

// hasRoom returns an error if a store with one more block is too large.
func (s *Store) hasRoom() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := count{len(s.packs) - s.gone + len(s.building) + 1, len(s.refs) + 1}
	for _, b := range s.building {
		n.blocks += len(b.records)
	}
	return s.check(n, s.opts.most)
}

// check returns an error if there are more packs or blocks than most.
func (s *Store) check(n, most count) error {
	if n.blocks > most.blocks || n.packs > most.packs {
		return fmt.Errorf("store %s: %d blocks in %d packs, the limits are %d and %d; remove releases with phase-publish gc, or use another prefix for some of the channels", s, n.blocks, n.packs, most.blocks, most.packs)
	}
	return nil
}

// writable returns an error if no block can be put.
func (s *Store) writable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.lease == nil {
		return fmt.Errorf("store %s: opened for reading only: %w", s, fs.ErrPermission)
	}
	return s.open()
}

// stored reports whether a pack in use, or one that is built, has a key.
func (s *Store) stored(k key) bool {
	if _, ok := s.inMemory(k); ok {
		return true
	}
	return slices.ContainsFunc(s.find(k), func(l location) bool { return l.pack.marked.IsZero() })
}

// add appends a block to the open pack. s.w.mu is held.
func (s *Store) add(ctx context.Context, k key, data []byte) error {
	if open := s.growing(); open != nil && (int64(len(open.data)+car.SectionLen(len(data))) > s.opts.MaxPack && len(open.records) > 0 || len(open.records) == maxRecords) {
		if err := s.seal(ctx, open); err != nil {
			return err
		}
		s.w.many = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	open := s.lastBuilding()
	if open == nil {
		size := int64(64 << 10) // it grows
		if s.w.many {
			size = s.opts.MaxPack
		}
		open = newBuilding(size)
		s.building = append(s.building, open)
	}
	open.append(k, data)
	return nil
}

// growing returns the pack that takes blocks, nil when there is none.
func (s *Store) growing() *building {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.lastBuilding()
}

func (s *Store) lastBuilding() *building {
	if n := len(s.building); n > 0 && s.building[n-1].done == nil {
		return s.building[n-1]
	}
	return nil
}

// seal begins to upload a pack. It waits until fewer than parallelUploads others are uploaded, so
// that few packs are in memory. After an error of an upload no pack is sealed before it succeeds.
func (s *Store) seal(ctx context.Context, b *building) error {
	if err := s.collectUploads(ctx, false); err != nil {
		return err
	}
	select {
	case s.w.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	b.done = make(chan error, 1)
	s.mu.Unlock()
	go func() {
		err := s.upload(s.w.uploads, b)
		<-s.w.slots
		b.done <- err
	}()
	return nil
}

// upload writes a pack, then its index, and adds it to the packs. A process that may have lost the
// lease does not write the index.
func (s *Store) upload(ctx context.Context, b *building) error {
	if err := s.Write(ctx, packObject(b.name), b.data, packType); err != nil {
		return err
	}
	if !s.lease.fresh() {
		if err := s.lease.check(ctx); err != nil {
			return err
		}
	}
	records := slices.Clone(b.records) // readers use those of b
	if err := s.Write(ctx, indexObject(b.name), encodeIndex(records, int64(len(b.data))), bytesType); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.building = slices.DeleteFunc(slices.Clone(s.building), func(other *building) bool { return other == b })
	s.w.own[b.name] = true
	return s.addPacks([]*packed{{name: b.name, size: int64(len(b.data)), records: records}})
}

// collectUploads returns the error of uploads that ended, or with wait of all. A pack whose upload
// failed is uploaded again by the next Sync.
func (s *Store) collectUploads(ctx context.Context, wait bool) error {
	s.mu.RLock()
	sealed := slices.Clone(s.building)
	s.mu.RUnlock()
	var errs error
	for _, b := range sealed {
		if b.done == nil {
			continue
		}
		if wait {
			select {
			case err := <-b.done:
				b.done <- err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		select {
		case err := <-b.done:
			b.done <- err // for the next caller
			errs = errors.Join(errs, err)
		default:
		}
	}
	return errs
}

// Sync uploads all blocks that were put before it, and renews the lease: when it returns nil, no
// other process has removed a block that this one found to be stored.
func (s *Store) Sync(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if err := s.open(); err != nil || s.lease == nil {
		return err
	}
	return s.sync(ctx)
}

// finish is Sync at the end of a writer, and gives the lease back. It does not repeat an upload that has failed.
func (s *Store) finish() error {
	err := s.collectUploads(s.w.ctx, false)
	if err == nil {
		err = s.Sync(s.w.ctx)
	}
	if err == nil {
		return s.lease.release(s.w.ctx)
	}
	s.mu.RLock()
	dropped := len(s.building)
	s.mu.RUnlock()
	if dropped == 0 && s.w.ctx.Err() != nil {
		err = nil // everything was stored before
	}
	return errors.Join(err, s.leave())
}

// leave ends the uploads, and gives the lease back if the server answers soon.
func (s *Store) leave() error {
	s.w.stop()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.w.ctx), lastTry)
	defer cancel()
	_ = s.collectUploads(ctx, true) // they were ended
	return s.lease.release(ctx)
}

func (s *Store) sync(ctx context.Context) error {
	if err := s.retryUploads(ctx); err != nil {
		return err
	}
	if b := s.growing(); b != nil {
		if err := s.seal(ctx, b); err != nil {
			return err
		}
	}
	if err := s.collectUploads(ctx, true); err != nil {
		return err
	}
	return s.lease.check(ctx)
}

// retryUploads waits for the uploads that have begun, and repeats those that failed.
func (s *Store) retryUploads(ctx context.Context) error {
	if s.collectUploads(ctx, true) == nil {
		return nil
	}
	s.mu.RLock()
	sealed := slices.Clone(s.building)
	s.mu.RUnlock()
	for _, b := range sealed {
		if b.done == nil {
			continue
		}
		<-b.done
		err := s.upload(ctx, b)
		b.done <- err
		if err != nil {
			return err
		}
	}
	return nil
}
