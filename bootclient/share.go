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
	"github.com/multiformats/go-multiaddr"

	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	maxMetadataFiles = 4 << 20 // bytes of metadata files that are fetched only to be shared
	uploadSlots      = 16      // answers with leaves under way at a time
)

// sharedBlocks are the verified blocks that this machine serves to peers while it fetches:
// the metadata of the accepted release, the IPNS record that points to it, the inner nodes of
// its artifacts, and their leaves. A leaf is read back from where it was written. It is a
// cas.Source. A nil *sharedBlocks keeps nothing.
type sharedBlocks struct {
	instance string       // ID of this run, part of the version of a bitfield
	sent     atomic.Int64 // bytes sent to other machines

	mu             sync.RWMutex
	memory         *cas.Memory       // metadata and inner nodes; nil before there are any
	records        map[string][]byte // by IPNS name
	artifacts      map[cid.Cid]*sharedArtifact
	firstPosition  map[cid.Cid]leafPosition   // first position of each leaf
	otherPositions map[cid.Cid][]leafPosition // its other positions
}

// A sharedArtifact is an artifact whose leaves are shared as they arrive.
type sharedArtifact struct {
	target   io.ReaderAt // nil: its leaves are read elsewhere
	leaves   []cas.Leaf
	bitfield []byte // bitfield, as /have/ sends it
	count    int    // of set bits
}

type leafPosition struct {
	*sharedArtifact
	i int // index of the leaf
}

func newSharedBlocks() *sharedBlocks {
	return &sharedBlocks{
		instance: strings.ToLower(rand.Text()[:10]), records: map[string][]byte{},
		artifacts: map[cid.Cid]*sharedArtifact{}, firstPosition: map[cid.Cid]leafPosition{}, otherPositions: map[cid.Cid][]leafPosition{},
	}
}

// offer returns what the gateway serves.
func (s *sharedBlocks) offer() gateway.Options {
	return gateway.Options{Source: s, IPNS: s.record, Have: s.have, UploadSlots: uploadSlots}
}

// served returns the bytes sent to other machines.
func (s *sharedBlocks) served() int64 {
	if s == nil {
		return 0
	}
	return s.sent.Load()
}

// setPointer shares the record of a pointer, and the blocks in memory: the metadata that it names,
// and the inner nodes of the artifacts, as they are read.
func (s *sharedBlocks) setPointer(ptr peers.Pointer, memory *cas.Memory) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.memory = memory
	if ptr.Record != nil {
		s.records[ptr.Name] = ptr.Record
	}
}

// AddArtifact adds an artifact without leaves.
func (s *sharedBlocks) AddArtifact(root cid.Cid, leaves []cas.Leaf, target io.ReaderAt) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := &sharedArtifact{target: target, leaves: leaves, bitfield: make([]byte, (len(leaves)+7)/8)}
	s.artifacts[root] = a
	for i, l := range leaves {
		if _, again := s.firstPosition[l.CID]; again {
			s.otherPositions[l.CID] = append(s.otherPositions[l.CID], leafPosition{a, i})
		} else {
			s.firstPosition[l.CID] = leafPosition{a, i}
		}
	}
}

// Verified records that a leaf was verified and written at all its positions.
func (s *sharedBlocks) Verified(c cid.Cid) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.firstPosition[c]; ok {
		p.set()
	}
	for _, p := range s.otherPositions[c] {
		p.set()
	}
}

func (p leafPosition) set() {
	if !p.isSet() {
		p.bitfield[p.i/8] |= 0x80 >> (p.i % 8)
		p.count++
	}
}

func (p leafPosition) isSet() bool { return p.bitfield[p.i/8]&(0x80>>(p.i%8)) != 0 }

// Block returns a shared block. The gateway reads it through cas.Get and so sends no damaged
// block. A leaf with several positions is read from the first position where it is undamaged.
func (s *sharedBlocks) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	s.mu.RLock()
	memory, places := s.memory, s.positions(c)
	s.mu.RUnlock()
	data, err := []byte(nil), cas.NotFound(c)
	if memory != nil {
		data, err = memory.Block(ctx, c)
	}
	if err == nil {
		return data, nil
	}
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

// positions returns where a leaf can be read.
func (s *sharedBlocks) positions(c cid.Cid) (out []leafPosition) {
	first, leaf := s.firstPosition[c]
	if !leaf || !first.isSet() {
		return nil
	}
	for _, p := range append([]leafPosition{first}, s.otherPositions[c]...) {
		if p.target != nil {
			out = append(out, p)
		}
	}
	return out
}

func (p leafPosition) read(c cid.Cid) ([]byte, error) {
	l := p.leaves[p.i]
	data := make([]byte, l.Size)
	if n, err := p.target.ReadAt(data, l.Offset); n < len(data) {
		return nil, fmt.Errorf("block %s: reading back: %w", c, err)
	}
	return data, nil
}

// saveTo writes the metadata, the records and the inner nodes to a cache, all or nothing. It writes
// nothing if dir is "" or nothing is shared. An error does not end the boot.
func (s *sharedBlocks) saveTo(ctx context.Context, dir cache.Dir, log *slog.Logger, r *report.Report) {
	if s == nil || dir == "" || len(s.records) == 0 {
		return
	}
	if err := s.write(ctx, dir, log); err != nil {
		r.Refuse("this machine", "saving metadata for other machines", errors.Join(err, os.RemoveAll(string(dir))))
	}
}

// write writes them into a cache.
func (s *sharedBlocks) write(ctx context.Context, dir cache.Dir, log *slog.Logger) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	store, err := pack.Open(dir.Blocks(), pack.Options{Log: log})
	if err != nil {
		return err
	}
	for id, data := range s.memory.All() {
		err = errors.Join(err, store.Put(ctx, id, data))
	}
	for name, record := range s.records {
		err = errors.Join(err, dir.SaveRecord(name, record))
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
	return bytes.Clone(a.bitfield), fmt.Sprintf("%s-%d", s.instance, a.count), nil
}

// shareOptions say how a machine that fetches is reached by others.
type shareOptions struct {
	serve  bool                  // serve the verified blocks
	listen []multiaddr.Multiaddr // none for free ports
	http   string                // host:port, "" for a free port
	ready  func(report.Ready)
	log    *slog.Logger
	report *report.Report
}

// A sharing is the node of a machine that fetches, and what it serves to others.
type sharing struct {
	node   *p2p.Node     // nil without one
	server *serving      // nil when nothing is served
	blocks *sharedBlocks // nil when nothing is served
	log    *slog.Logger

	ctx      context.Context
	cancel   context.CancelFunc
	tasks    sync.WaitGroup
	metadata chan struct{} // closed when all metadata files are shared; nil before publish
}

// startSharing starts a node if one is needed, and serves the verified blocks on it if the
// options say so. If the machine cannot serve, the boot continues.
func startSharing(ctx context.Context, opts p2p.Options, needed bool, o shareOptions) (s *sharing, err error) {
	s = &sharing{log: o.log}
	s.ctx, s.cancel = context.WithCancel(ctx)
	if !needed {
		return s, nil
	}
	if o.serve {
		blocks, own := newSharedBlocks(), opts
		own.Listen = o.listen
		if s.server, err = openServing(ctx, own, blocks.offer(), func(n int64) { blocks.sent.Add(n) }, o.http); err == nil {
			s.blocks, s.node = blocks, s.server.node
			o.ready(s.server.ready())
			return s, nil
		}
		o.report.Refuse("this machine", "serving others", err)
	}
	if s.node, err = p2p.New(ctx, opts); err != nil {
		s.cancel()
		return nil, fmt.Errorf("peer-to-peer: %w", err)
	}
	return s, nil
}

// close ends the serving and the node.
func (s *sharing) close() {
	s.cancel()
	s.tasks.Wait()
	var err error
	if s.server != nil {
		err = s.server.close()
	} else if s.node != nil {
		err = s.node.Close()
	}
	if err != nil {
		s.log.Debug("share: closing", "err", err)
	}
}

// publish shares the metadata of the accepted release and announces its artifacts. From src it
// reads the metadata files that this machine did not need, for the cache and for others: an
// older machine needs the roots in between, a machine of another channel its own file.
func (s *sharing) publish(r manifest.Release, unread []cid.Cid, src cas.Source) {
	s.metadata = make(chan struct{})
	s.tasks.Go(func() {
		defer close(s.metadata)
		left := int64(maxMetadataFiles)
		for _, id := range unread {
			data, err := cas.ReadFile(s.ctx, src, id, min(left, manifest.MaxMetadata))
			if err != nil {
				s.log.Debug("share: metadata for others", "file", id, "err", err)
				return
			}
			left -= int64(len(data))
		}
	})
	if s.blocks != nil && s.node.InDHT() {
		s.tasks.Go(func() { provide(s.ctx, s.node, r, s.log) })
	}
}

// published waits for these files, at most timing.MetadataLimit: only other machines need them.
func (s *sharing) published() {
	if s.metadata == nil {
		return
	}
	select {
	case <-s.metadata:
	case <-time.After(timing.MetadataLimit):
	case <-s.ctx.Done():
	}
}

// provide announces the artifacts of a release in the DHT, unless enough machines have done so.
// It does not announce the metadata: a search for metadata must find the publishers, not a
// thousand machines behind a router.
func provide(ctx context.Context, node *p2p.Node, r manifest.Release, log *slog.Logger) {
	for _, a := range r.Artifacts {
		if _, err := node.ProvideIfFew(ctx, a.CID); err != nil && ctx.Err() == nil {
			log.Debug("share: DHT", "err", err)
		}
	}
}
