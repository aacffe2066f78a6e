package bootclient

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	maxShelf  = 16 << 20        // bytes of nodes and metadata kept in memory for others
	maxRest   = 4 << 20         // bytes of a metadata folder that are fetched only for others
	shelfSlot = 16              // answers with leaves under way at a time
	restLimit = 2 * time.Second // for that, once everything else is done
)

// sharedBlocks are the verified blocks that this machine serves to peers while it fetches:
// the metadata of the accepted release, the IPNS record that points to it, the inner nodes of
// its artifacts, and their leaves. A leaf is read back from where it was written. It is a
// cas.Source. A nil *sharedBlocks keeps nothing.
type sharedBlocks struct {
	run  string       // tells versions of this run from those of another
	sent atomic.Int64 // bytes that others got

	mu        sync.RWMutex
	blocks    map[cid.Cid][]byte // metadata and inner nodes
	size      int                // of blocks
	records   map[string][]byte  // by IPNS name
	artifacts map[cid.Cid]*stock
	first     map[cid.Cid]spot   // of each leaf, where it is first
	others    map[cid.Cid][]spot // and the places where it is again
}

// A stock is one artifact, as far as it is there.
type stock struct {
	target io.ReaderAt // nil: its leaves are elsewhere
	leaves []cas.Leaf
	bits   []byte // as /have/ says them
	count  int    // of bits that are set
}

type spot struct {
	*stock
	i int // of the leaf
}

func newSharedBlocks() *sharedBlocks {
	return &sharedBlocks{
		run: strings.ToLower(rand.Text()[:10]), blocks: map[cid.Cid][]byte{}, records: map[string][]byte{},
		artifacts: map[cid.Cid]*stock{}, first: map[cid.Cid]spot{}, others: map[cid.Cid][]spot{},
	}
}

// offer is what the gateway serves of the shared blocks.
func (s *sharedBlocks) offer() gateway.Options {
	return gateway.Options{Source: s, IPNS: s.record, Have: s.have, UploadSlots: shelfSlot, Sent: func(n int64) { s.sent.Add(n) }}
}

// served is how many bytes others got.
func (s *sharedBlocks) served() int64 {
	if s == nil {
		return 0
	}
	return s.sent.Load()
}

// point keeps the record of a name.
func (s *sharedBlocks) point(h head) {
	if s == nil || h.record == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[h.name] = h.record
}

// keep takes a verified block of metadata or an inner node.
func (s *sharedBlocks) keep(c cid.Cid, data []byte) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, have := s.blocks[c]; !have && s.size+len(data) <= maxShelf {
		s.blocks[c] = data
		s.size += len(data)
	}
}

// recording returns src, whose blocks are kept. It must verify them.
func (s *sharedBlocks) recording(src cas.Source) cas.Source {
	if s == nil {
		return src
	}
	return recorder{src, s.keep}
}

type recorder struct {
	cas.Source
	keep func(cid.Cid, []byte)
}

func (r recorder) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	data, err := r.Source.Block(ctx, c)
	if err == nil {
		r.keep(c, data)
	}
	return data, err
}

// stock makes an artifact known, none of whose leaves is there yet.
func (s *sharedBlocks) stock(root cid.Cid, leaves []cas.Leaf, target io.ReaderAt) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := &stock{target: target, leaves: leaves, bits: make([]byte, (len(leaves)+7)/8)}
	s.artifacts[root] = a
	for i, l := range leaves {
		if _, again := s.first[l.CID]; again {
			s.others[l.CID] = append(s.others[l.CID], spot{a, i})
		} else {
			s.first[l.CID] = spot{a, i}
		}
	}
}

// verified says that a leaf was verified and is in all its places.
func (s *sharedBlocks) verified(c cid.Cid) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.first[c]; ok {
		p.set()
	}
	for _, p := range s.others[c] {
		p.set()
	}
}

func (p spot) set() {
	if !p.isSet() {
		p.bits[p.i/8] |= 0x80 >> (p.i % 8)
		p.count++
	}
}

func (p spot) isSet() bool { return p.bits[p.i/8]&(0x80>>(p.i%8)) != 0 }

// Block returns a shared block. The server reads it through cas.Get: memory
// that changed meanwhile is not given away. A leaf that lies in several places is given from
// the first where it hashes right.
func (s *sharedBlocks) Block(_ context.Context, c cid.Cid) ([]byte, error) {
	s.mu.RLock()
	data, ok := s.blocks[c]
	places := s.places(c)
	s.mu.RUnlock()
	if ok {
		return data, nil
	}
	err := cas.NotFound(c)
	for _, p := range places {
		if data, err = p.read(c); err == nil && len(places) > 1 {
			err = cas.Check(c, data)
		}
		if err == nil {
			return data, nil
		}
	}
	return nil, err
}

// places is where a leaf can be read back.
func (s *sharedBlocks) places(c cid.Cid) (out []spot) {
	first, leaf := s.first[c]
	if !leaf || !first.isSet() {
		return nil
	}
	for _, p := range append([]spot{first}, s.others[c]...) {
		if p.target != nil {
			out = append(out, p)
		}
	}
	return out
}

func (p spot) read(c cid.Cid) ([]byte, error) {
	l := p.leaves[p.i]
	data := make([]byte, l.Size)
	if n, err := p.target.ReadAt(data, l.Offset); n < len(data) {
		return nil, fmt.Errorf("block %s: reading back: %w", c, err)
	}
	return data, nil
}

// keepFor writes the shared blocks without the leaves to Config.Keep, all or nothing. A boot goes
// on without.
func (s *sharedBlocks) keepFor(ctx context.Context, cfg Config) {
	if s == nil || cfg.Keep == "" || len(s.records) == 0 {
		return
	}
	if err := s.write(ctx, Config{Cache: cfg.Keep, Log: cfg.Log}); err != nil {
		cfg.Report.Refuse("this machine", "keeping metadata for others", errors.Join(err, os.RemoveAll(cfg.Keep)))
	}
}

// write fills a cache.
func (s *sharedBlocks) write(ctx context.Context, c Config) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	store, err := cas.OpenPacks(c.blocksDir(), cas.PackOptions{Log: c.Log})
	if err != nil {
		return err
	}
	for id, data := range s.blocks {
		err = errors.Join(err, store.Put(ctx, id, data))
	}
	for name, record := range s.records {
		err = errors.Join(err, c.keepHead(head{name: name, record: record}))
	}
	return errors.Join(err, store.Close())
}

func (s *sharedBlocks) record(_ context.Context, name string) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	rec, ok := s.records[name]
	if !ok {
		return nil, fmt.Errorf("IPNS name %.80q: %w", name, fs.ErrNotExist)
	}
	return rec, nil
}

func (s *sharedBlocks) have(root cid.Cid) (bits []byte, version string, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	a, ok := s.artifacts[root]
	if !ok {
		return nil, "", cas.NotFound(root)
	}
	return bytes.Clone(a.bits), fmt.Sprintf("%s-%d", s.run, a.count), nil
}

// publish shares the accepted metadata. Where others or the cache have a use
// for it, it also fetches what of the folder this machine itself did not need: an older
// machine asks for the roots in between, one of another channel for its own file.
func (d *discovery) publish(won resolution, c *cache) {
	if won.folder == nil || d.shared == nil && !c.writable() {
		return
	}
	d.shared.point(won.head)
	if c.writable() {
		if err := d.cfg.keepHead(won.head); err != nil {
			d.cfg.Report.Refuse("cache", "remembering the head", err)
		}
	}
	won.folder.blocks.Range(func(id, data any) bool {
		d.shared.keep(id.(cid.Cid), data.([]byte))
		return true
	})
	src := d.shared.recording(pool{sources: d.sources, cache: c, prefer: won.from})
	d.rest = make(chan struct{})
	d.tasks.Go(func() {
		defer close(d.rest)
		left := int64(maxRest)
		for _, id := range won.folder.unread() {
			data, err := cas.ReadFile(d.ctx, src, id, min(left, manifest.MaxMetadata))
			if err != nil {
				d.cfg.Log.Debug("share: metadata for others", "file", id, "err", err)
				return
			}
			left -= int64(len(data))
		}
	})
	d.provide(won.v.Release())
}

// published waits for the rest of the metadata, not for long: it is small, and only
// others need it.
func (d *discovery) published() {
	if d.rest == nil {
		return
	}
	select {
	case <-d.rest:
	case <-time.After(restLimit):
	case <-d.ctx.Done():
	}
}

// provide tells the DHT that this machine has artifacts of a release, as far as not enough
// others have. It does not say so of the metadata: who looks for that must find those who publish, not a thousand
// machines behind a router.
func (d *discovery) provide(r manifest.Release) {
	if d.shared == nil || !d.sources.node.InDHT() {
		return
	}
	d.tasks.Go(func() { provide(d.ctx, d.sources.node, r, d.cfg.Log) })
}

func provide(ctx context.Context, node *p2p.Node, r manifest.Release, log *slog.Logger) {
	for _, a := range r.Artifacts {
		if _, err := node.Offer(ctx, a.CID); err != nil && ctx.Err() == nil {
			log.Debug("share: DHT", "err", err)
		}
	}
}
