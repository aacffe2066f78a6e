package seed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/bootclient/resolve"
	"github.com/phaseboot/phaseboot/bootclient/share"
	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/limit"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

// Options say what a seed serves and where.
type Options struct {
	Policy    func() manifest.Policy // of the present time, with the saved state of the cache
	Names     func() []string        // IPNS names of the newest saved root
	Cache     cache.Dir
	Artifacts string // folder with the leaves that the cache lacks, "" for none
	Node      p2p.Options
	HTTP      string // host:port, "" for a free port
	Ready     func(report.Ready)
	Log       *slog.Logger
}

// A seeder serves a cache until ctx ends.
type seeder struct {
	Options
	store    *pack.Store
	lastLook string // IPNS records and number of blocks of the last look
	current  atomic.Pointer[seededRelease]
	sent     atomic.Int64 // bytes sent to other machines
}

// Serve serves the newest release that the cache has and that verifies, until ctx ends. It
// returns nil then.
func Serve(ctx context.Context, o Options) error {
	s := &seeder{Options: o}
	var err error
	if s.store, err = pack.OpenContext(ctx, o.Cache.Blocks(), pack.Options{ReadOnly: true, Log: o.Log}); err != nil {
		return fmt.Errorf("cache %s: %w; fill it with phase-boot fetch --cache", o.Cache, err)
	}
	defer s.store.Close()
	if err := s.load(ctx); err != nil {
		return err
	}
	return s.serve(ctx)
}

// A seededRelease is what is served at one time.
type seededRelease struct {
	*share.Blocks
	pointer peers.Pointer
	release manifest.Release
}

func (s *seeder) serve(ctx context.Context) error {
	open, err := share.Open(ctx, s.Node, s.offer(), func(n int64) { s.sent.Add(n) }, s.HTTP)
	if err != nil {
		return err
	}
	now, ready := s.current.Load(), open.Ready()
	ready.Release, ready.Head = now.release.Version, now.pointer.Directory.String()
	s.Ready(ready)
	err = errors.Join(s.follow(ctx, open), open.Close())
	s.Log.Info("seed: ends", "served", report.Bytes(s.sent.Load()))
	return err
}

// follow serves newer pointers and announces them in the DHT, until ctx or the serving ends.
func (s *seeder) follow(ctx context.Context, open *share.Server) error {
	look := time.NewTicker(timing.LookAgain)
	defer look.Stop()
	var announced *seededRelease
	var last time.Time
	for {
		if now := s.current.Load(); open.Node.InDHT() && (now != announced || time.Since(last) > timing.ProvideLoop) {
			announced, last = now, time.Now()
			go share.Provide(ctx, open.Node, now.release, s.Log)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-open.Ended:
			return nil // close returns the reason
		case <-look.C:
			if err := s.load(ctx); err != nil && ctx.Err() == nil {
				s.Log.Warn("seed: keeps the previous release", "cause", err)
			}
		}
	}
}

func (s *seeder) offer() gateway.Options {
	faults := limit.OnceAnHour(s.Log)
	return gateway.Options{
		Source: s.source(), UploadSlots: share.UploadSlots,
		Fault: func(err error) { faults.Error("block not served", "cause", err) },
		IPNS:  func(ctx context.Context, name string) ([]byte, error) { return s.current.Load().Record(ctx, name) },
		Have:  func(root cid.Cid) ([]byte, string, error) { return s.current.Load().Have(root) },
	}
}

// source returns what the gateway reads.
func (s *seeder) source() cas.Source {
	if s.Artifacts == "" {
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
	for _, name := range s.Names() {
		ptr, err := resolve.SavedPointer(s.Cache, name)
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
		return fmt.Errorf("cache %s: no release to serve: %w; run phase-boot fetch --cache with the same root.json", s.Cache, refused)
	}
	was := s.current.Swap(s.collect(ctx, won, best))
	if was != nil && was.pointer.Directory != won.Directory {
		s.Log.Info("seed: serves a newer pointer", "release", best.Release().Version, "head", won.Directory)
	}
	return nil
}

func (s *seeder) verify(ctx context.Context, ptr peers.Pointer) (*manifest.Verified, error) {
	return manifest.Verify(ctx, resolve.NewDirectory(ptr.Directory, s.store), s.Policy())
}

// collect finds out which leaves of the releases of a manifest this machine has. The release of the result is
// the first one that it has as a whole: it cannot know which one another machine takes.
func (s *seeder) collect(ctx context.Context, ptr peers.Pointer, v *manifest.Verified) *seededRelease {
	out := &seededRelease{share.NewBlocks(), ptr, v.Release()}
	out.SetPointer(ptr, nil)
	all := v.Newest().All()
	missing := map[string]bool{} // by sha256
	for _, a := range distinct(all) {
		leaves, err := cas.Leaves(ctx, s.store, a.CID, a.Length)
		if err != nil {
			s.Log.Info("seed: not in the cache", "artifact", a.Role, "cause", err)
			missing[a.SHA256] = true
			continue
		}
		file := s.artifact(ctx, a, len(all) > 1)
		out.AddArtifact(a.CID, leaves, file)
		for _, l := range leaves {
			if file != nil || s.has(ctx, l.CID) {
				out.Verified(l.CID)
			} else {
				missing[a.SHA256] = true
			}
		}
	}
	for _, r := range all {
		if !slices.ContainsFunc(r.Artifacts, func(a manifest.Artifact) bool { return missing[a.SHA256] }) {
			out.release = r
			break
		}
	}
	return out
}

// distinct lists the artifacts of releases, each content once.
func distinct(releases []manifest.Release) (list []manifest.Artifact) {
	seen := map[string]bool{}
	for _, r := range releases {
		for _, a := range r.Artifacts {
			if !seen[a.SHA256] {
				seen[a.SHA256] = true
				list = append(list, a)
			}
		}
	}
	return list
}

func (s *seeder) has(ctx context.Context, c cid.Cid) bool {
	ok, err := s.store.Has(ctx, c)
	return ok && err == nil
}

// artifact opens the file of an artifact, nil when there is none of the right length. With hash, its content
// must be right too: the folder has the files of one of several releases. The garbage collector closes the file
// when it is not served any more.
func (s *seeder) artifact(ctx context.Context, a manifest.Artifact, hash bool) io.ReaderAt {
	if s.Artifacts == "" {
		return nil
	}
	f, err := file.OpenInRoot(s.Artifacts, a.Role)
	if err != nil {
		s.Log.Info("seed: artifact file not used", "artifact", a.Role, "cause", err)
		return nil
	}
	if info, err := f.Stat(); err != nil || info.Size() != a.Length {
		s.Log.Info("seed: artifact file not used", "artifact", a.Role, "cause", "the file has another length than the signed one")
		f.Close()
		return nil
	}
	if hash {
		defer context.AfterFunc(ctx, func() { f.Close() })() // ends the copy
		sum := sha256.New()
		if _, err := io.Copy(sum, io.NewSectionReader(f, 0, a.Length)); err != nil || hex.EncodeToString(sum.Sum(nil)) != a.SHA256 {
			s.Log.Info("seed: artifact file not used", "artifact", a.Role, "cause", "it is of another release")
			f.Close()
			return nil
		}
	}
	return f
}
