package share

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

// UploadSlots is the number of answers with leaves that are under way at a time.
const UploadSlots = 16

// maxMetadataFiles is the bytes of metadata files that are fetched only to be shared.
const maxMetadataFiles = 4 << 20

// Blocks are the verified blocks that this machine serves to peers while it fetches:
// the metadata of the accepted release, the IPNS record that points to it, the inner nodes of
// its artifacts, and their leaves. A leaf is read back from where it was written. It is a
// cas.Source. A nil *Blocks keeps nothing.
type Blocks struct {
	instance string       // ID of this run, part of the version of a bitfield
	sent     atomic.Int64 // bytes sent to other machines

	mu        sync.RWMutex
	memory    *cas.Memory       // metadata and inner nodes; nil before there are any
	records   map[string][]byte // by IPNS name
	artifacts map[cid.Cid]*sharedArtifact
	positions map[cid.Cid][]leafPosition // of each leaf
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

// NewBlocks returns an empty set.
func NewBlocks() *Blocks {
	return &Blocks{
		instance: strings.ToLower(rand.Text()[:10]), records: map[string][]byte{},
		artifacts: map[cid.Cid]*sharedArtifact{}, positions: map[cid.Cid][]leafPosition{},
	}
}

// Served returns the bytes sent to other machines.
func (s *Blocks) Served() int64 {
	if s == nil {
		return 0
	}
	return s.sent.Load()
}

// SetPointer shares the record of a pointer, and the blocks in memory: the metadata that it names,
// and the inner nodes of the artifacts, as they are read.
func (s *Blocks) SetPointer(ptr peers.Pointer, memory *cas.Memory) {
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
func (s *Blocks) AddArtifact(root cid.Cid, leaves []cas.Leaf, target io.ReaderAt) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := &sharedArtifact{target: target, leaves: leaves, bitfield: make([]byte, (len(leaves)+7)/8)}
	s.artifacts[root] = a
	for i, l := range leaves {
		s.positions[l.CID] = append(s.positions[l.CID], leafPosition{a, i})
	}
}

// Verified records that a leaf was verified and written at all its positions.
func (s *Blocks) Verified(c cid.Cid) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.positions[c] {
		if !p.isSet() {
			p.bitfield[p.i/8] |= 0x80 >> (p.i % 8)
			p.count++
		}
	}
}

func (p leafPosition) isSet() bool { return p.bitfield[p.i/8]&(0x80>>(p.i%8)) != 0 }

// Block returns a shared block. The gateway reads it through cas.Get and so sends no damaged
// block. A leaf with several positions is read from the first position where it is undamaged.
func (s *Blocks) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	s.mu.RLock()
	memory, positions := s.memory, s.readable(c)
	s.mu.RUnlock()
	data, err := []byte(nil), cas.NotFound(c)
	if memory != nil {
		data, err = memory.Block(ctx, c)
	}
	if err == nil {
		return data, nil
	}
	for _, p := range positions {
		if data, err = p.read(c); err == nil && len(positions) > 1 {
			err = cas.Check(c, data)
		}
		if err == nil {
			return data, nil
		}
	}
	return nil, err
}

// readable returns where a verified leaf can be read.
func (s *Blocks) readable(c cid.Cid) (out []leafPosition) {
	for _, p := range s.positions[c] {
		if p.target != nil && p.isSet() {
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

// SaveTo writes the metadata, the records and the inner nodes to a cache, all or nothing. It writes
// nothing if dir is "" or nothing is shared. An error does not end the boot.
func (s *Blocks) SaveTo(ctx context.Context, dir cache.Dir, log *slog.Logger, r *report.Report) {
	if s == nil || dir == "" || len(s.records) == 0 {
		return
	}
	if err := s.write(ctx, dir, log); err != nil {
		r.Refuse("this machine", "saving metadata for other machines", errors.Join(err, os.RemoveAll(string(dir))))
	}
}

func (s *Blocks) write(ctx context.Context, dir cache.Dir, log *slog.Logger) error {
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

// Record returns the IPNS record of a name.
func (s *Blocks) Record(_ context.Context, name string) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	rec, ok := s.records[name]
	if !ok {
		return nil, fmt.Errorf("IPNS name %.80q: %w", name, fs.ErrNotExist)
	}
	return rec, nil
}

// Have returns the bitfield of an artifact and its version.
func (s *Blocks) Have(root cid.Cid) (bits []byte, version string, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	a, ok := s.artifacts[root]
	if !ok {
		return nil, "", cas.NotFound(root)
	}
	return bytes.Clone(a.bitfield), fmt.Sprintf("%s-%d", s.instance, a.count), nil
}

// Options say how a machine that fetches is reached by others.
type Options struct {
	Serve  bool                  // serve the verified blocks
	Listen []multiaddr.Multiaddr // none for free ports
	HTTP   string                // host:port, "" for a free port
	Ready  func(report.Ready)
	Log    *slog.Logger
	Report *report.Report
}

// A Sharing is the node of a machine that fetches, and what it serves to others.
type Sharing struct {
	Node   *p2p.Node // nil without one
	Server *Server   // nil when nothing is served
	Blocks *Blocks   // nil when nothing is served
	log    *slog.Logger

	ctx      context.Context
	cancel   context.CancelFunc
	tasks    sync.WaitGroup
	metadata chan struct{} // closed when all metadata files are shared; nil before Publish
}

// Start starts a node if one is needed, and serves the verified blocks on it if the
// options say so. If the machine cannot serve, the boot continues.
func Start(ctx context.Context, opts p2p.Options, needed bool, o Options) (s *Sharing, err error) {
	s = &Sharing{log: o.Log}
	s.ctx, s.cancel = context.WithCancel(ctx)
	if !needed {
		return s, nil
	}
	if o.Serve {
		blocks, own := NewBlocks(), opts
		own.Listen = o.Listen
		offer := gateway.Options{Source: blocks, IPNS: blocks.Record, Have: blocks.Have, UploadSlots: UploadSlots}
		if s.Server, err = Open(ctx, own, offer, func(n int64) { blocks.sent.Add(n) }, o.HTTP); err == nil {
			s.Blocks, s.Node = blocks, s.Server.Node
			o.Ready(s.Server.Ready())
			return s, nil
		}
		o.Report.Refuse("this machine", "serving others", err)
	}
	if s.Node, err = p2p.New(ctx, opts); err != nil {
		s.cancel()
		return nil, fmt.Errorf("peer-to-peer: %w", err)
	}
	return s, nil
}

// Close ends the serving and the node.
func (s *Sharing) Close() {
	s.cancel()
	s.tasks.Wait()
	var err error
	if s.Server != nil {
		err = s.Server.Close()
	} else if s.Node != nil {
		err = s.Node.Close()
	}
	if err != nil {
		s.log.Debug("share: closing", "cause", err)
	}
}

// Publish shares the metadata of the accepted release and announces its artifacts. From src it
// reads the metadata files that this machine did not need, for the cache and for others: an
// older machine needs the roots in between, a machine of another channel its own file.
func (s *Sharing) Publish(r manifest.Release, unread []cid.Cid, src cas.Source) {
	s.metadata = make(chan struct{})
	s.tasks.Go(func() {
		defer close(s.metadata)
		left := int64(maxMetadataFiles)
		for _, id := range unread {
			data, err := cas.ReadFile(s.ctx, src, id, min(left, manifest.MaxMetadata))
			if err != nil {
				s.log.Debug("share: metadata for others", "file", id, "cause", err)
				return
			}
			left -= int64(len(data))
		}
	})
	if s.Blocks != nil && s.Node.InDHT() {
		s.tasks.Go(func() { Provide(s.ctx, s.Node, r, s.log) })
	}
}

// AwaitMetadata waits for the files that Publish reads, at most timing.MetadataLimit: only other
// machines need them.
func (s *Sharing) AwaitMetadata() {
	if s.metadata == nil {
		return
	}
	select {
	case <-s.metadata:
	case <-time.After(timing.MetadataLimit):
	case <-s.ctx.Done():
	}
}

// Provide announces the artifacts of a release in the DHT, unless enough machines have done so.
// It does not announce the metadata: a search for metadata must find the publishers, not a
// thousand machines behind a router.
func Provide(ctx context.Context, node *p2p.Node, r manifest.Release, log *slog.Logger) {
	for _, a := range r.Artifacts {
		if _, err := node.ProvideIfFew(ctx, a.CID); err != nil && ctx.Err() == nil {
			log.Debug("share: DHT", "cause", err)
		}
	}
}
