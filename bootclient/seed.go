package bootclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/resolve"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/limit"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

// seedOptions say what a seed serves and where.
type seedOptions struct {
	policy    func() manifest.Policy    // of the present time, with the saved state of the cache
	places    func() manifest.Discovery // of the newest saved root
	cache     cache.Dir
	artifacts string // folder with the leaves that the cache lacks, "" for none
	node      p2p.Options
	http      string // host:port, "" for a free port
	ready     func(report.Ready)
	log       *slog.Logger
}

// A seeder serves a cache until ctx ends.
type seeder struct {
	seedOptions
	store    *pack.Store
	lastLook string // IPNS records and number of blocks of the last look
	current  atomic.Pointer[seededRelease]
	sent     atomic.Int64 // bytes sent to other machines
}

// serveCache serves the newest release that the cache has and that verifies, until ctx ends. It
// returns nil then.
func serveCache(ctx context.Context, o seedOptions) error {
	s := &seeder{seedOptions: o}
	var err error
	if s.store, err = pack.OpenContext(ctx, o.cache.Blocks(), pack.Options{ReadOnly: true, Log: o.log}); err != nil {
		return fmt.Errorf("cache %s: %w; fill it with phase-boot fetch --cache", o.cache, err)
	}
	defer s.store.Close()
	if err := s.load(ctx); err != nil {
		return err
	}
	return s.serve(ctx)
}

// A seededRelease is what is served at one time.
type seededRelease struct {
	*sharedBlocks
	pointer peers.Pointer
	release manifest.Release
}

func (s *seeder) serve(ctx context.Context) error {
	open, err := openServing(ctx, s.node, s.offer(), func(n int64) { s.sent.Add(n) }, s.http)
	if err != nil {
		return err
	}
	now, ready := s.current.Load(), open.ready()
	ready.Release, ready.Head = now.release.Version, now.pointer.Directory.String()
	s.ready(ready)
	err = errors.Join(s.follow(ctx, open), open.close())
	s.log.Info("seed: ends", "served", report.Bytes(s.sent.Load()))
	return err
}

// follow serves newer pointers and announces them in the DHT, until ctx or the serving ends.
func (s *seeder) follow(ctx context.Context, open *serving) error {
	look := time.NewTicker(timing.LookAgain)
	defer look.Stop()
	var announced *seededRelease
	var last time.Time
	for {
		if now := s.current.Load(); open.node.InDHT() && (now != announced || time.Since(last) > timing.ProvideLoop) {
			announced, last = now, time.Now()
			go provide(ctx, open.node, now.release, s.log)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-open.ended:
			return nil // close returns the reason
		case <-look.C:
			if err := s.load(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("seed: keeps the previous release", "cause", err)
			}
		}
	}
}

func (s *seeder) offer() gateway.Options {
	faults := limit.OnceAnHour(s.log)
	return gateway.Options{
		Source: s.source(), UploadSlots: uploadSlots,
		Fault: func(err error) { faults.Error("block not served", "cause", err) },
		IPNS:  func(ctx context.Context, name string) ([]byte, error) { return s.current.Load().record(ctx, name) },
		Have:  func(root cid.Cid) ([]byte, string, error) { return s.current.Load().have(root) },
	}
}

// source returns what the gateway reads.
func (s *seeder) source() cas.Source {
	if s.artifacts == "" {
		return s.store
	}
	return s
}

// Block returns a block of the cache. If the cache lacks it or has a damaged copy, Block reads
// the leaf from the folder of artifacts.
func (s *seeder) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	data, err := cas.Get(ctx, s.store, c)
	if err == nil || ctx.Err() != nil {
		return data, err
	}
	leaf, missing := s.current.Load().Block(ctx, c)
	if missing == nil || errors.Is(err, fs.ErrNotExist) {
		return leaf, missing
	}
	return nil, err
}

// load verifies the pointers of the cache and serves the newest. It does so again when the
// cache has new blocks: a fetch saves its pointer before it has the blocks.
func (s *seeder) load(ctx context.Context) error {
	held, err := s.store.Stats(ctx)
	if err != nil {
		return err
	}
	var pointers []peers.Pointer
	var refused error
	seen := fmt.Sprintln(held.Blocks)
	for _, name := range s.places().IPNS {
		ptr, err := resolve.SavedPointer(s.cache, name)
		if err != nil {
			refused = peers.Worse(refused, err)
			continue
		}
		pointers, seen = append(pointers, ptr), seen+string(ptr.Record)
	}
	if s.current.Load() != nil && seen == s.lastLook {
		return nil
	}
	s.lastLook = seen
	var best *manifest.Verified
	var won peers.Pointer
	for _, ptr := range pointers {
		v, err := s.verify(ctx, ptr)
		if err != nil {
			refused = peers.Worse(refused, err)
		} else if best == nil || resolve.Newer(v, best) {
			best, won = v, ptr
		}
	}
	if best == nil {
		return fmt.Errorf("cache %s: no release to serve: %w; run phase-boot fetch --cache with the same root.json", s.cache, refused)
	}
	was := s.current.Swap(s.collect(ctx, won, best.Release()))
	if was != nil && was.pointer.Directory != won.Directory {
		s.log.Info("seed: serves a newer pointer", "release", best.Release().Version, "head", won.Directory)
	}
	return nil
}

func (s *seeder) verify(ctx context.Context, ptr peers.Pointer) (*manifest.Verified, error) {
	return manifest.Verify(ctx, resolve.NewDirectory(ptr.Directory, s.store), s.policy())
}

// collect finds out which leaves of a release this machine has.
func (s *seeder) collect(ctx context.Context, ptr peers.Pointer, r manifest.Release) *seededRelease {
	out := &seededRelease{newSharedBlocks(), ptr, r}
	out.setPointer(ptr, nil)
	for _, a := range r.Artifacts {
		leaves, err := cas.Leaves(ctx, s.store, a.CID, a.Length)
		if err != nil {
			s.log.Info("seed: not in the cache", "artifact", a.Role, "cause", err)
			continue
		}
		file := s.artifact(a)
		out.AddArtifact(a.CID, leaves, file)
		for _, l := range leaves {
			if file != nil || s.has(ctx, l.CID) {
				out.Verified(l.CID)
			}
		}
	}
	return out
}

func (s *seeder) has(ctx context.Context, c cid.Cid) bool {
	ok, err := s.store.Has(ctx, c)
	return ok && err == nil
}

// artifact opens the file of an artifact, nil when there is none of the right length. The
// garbage collector closes it when it is not served any more.
func (s *seeder) artifact(a manifest.Artifact) io.ReaderAt {
	if s.artifacts == "" {
		return nil
	}
	f, err := file.OpenInRoot(s.artifacts, a.Role)
	if err != nil {
		s.log.Info("seed: artifact file not used", "artifact", a.Role, "cause", err)
		return nil
	}
	if info, err := f.Stat(); err != nil || info.Size() != a.Length {
		s.log.Info("seed: artifact file not used", "artifact", a.Role, "cause", "the file has another length than the signed one")
		f.Close()
		return nil
	}
	return f
}
