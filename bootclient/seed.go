package bootclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/limit"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	lookAgain   = 2 * time.Second  // for a newer head in the cache
	provideLoop = 30 * time.Minute // between announcements in the DHT, which forgets
)

// Seed serves what an earlier Run left in Config.Cache until ctx ends, and returns nil
// then: the newest release that verifies, with its metadata and the record that points to
// it, every block of the cache, and the leaves of the artifacts that lie in
// Config.Artifacts. It writes nothing and may run beside a Run that does; a newer head is
// taken up within seconds.
//
// Errors are those of manifest.Verify for a head that does not pass, and wrap
// fs.ErrNotExist when the cache holds none; a mode that does not announce, and no cache,
// wrap fs.ErrInvalid.
func Seed(ctx context.Context, cfg Config) error {
	cfg.Share = true
	cfg = cfg.complete()
	switch {
	case !cfg.shares():
		return misuse{fmt.Sprintf("mode %s: serves nobody; choose one that announces", cfg.Mode.Name)}
	case cfg.Cache == "":
		return misuse{"no cache: name the folder that phase-boot fetch --cache filled"}
	}
	s := &seed{cfg: cfg}
	var err error
	if s.root, err = manifest.ParseRoot(cfg.Root); err != nil {
		return err
	}
	if err := cfg.checkFolders(); err != nil {
		return fmt.Errorf("cache %s: %w", cfg.Cache, err)
	}
	if s.store, err = cas.OpenPacksContext(ctx, cfg.blocksDir(), cas.PackOptions{ReadOnly: true, Log: cfg.Log}); err != nil {
		return fmt.Errorf("cache %s: %w; fill it with phase-boot fetch --cache", cfg.Cache, err)
	}
	defer s.store.Close()
	if err := s.load(ctx); err != nil {
		return err
	}
	return s.run(ctx)
}

// A seed is one run of Seed.
type seed struct {
	cfg   Config
	root  *manifest.Root
	store *cas.Packs
	known string // what stood in the cache at the last look: the records, and how many blocks
	now   atomic.Pointer[seeded]
	sent  atomic.Int64 // bytes that others got
}

// seeded is what is served at one time.
type seeded struct {
	*sharedBlocks
	head    head
	release manifest.Release
}

func (s *seed) run(ctx context.Context) error {
	places := s.places()
	opts := p2p.Options{MDNS: s.cfg.Mode.Uses("mdns"), DHT: p2p.DHTOff, Listen: s.cfg.Listen, Log: s.cfg.Log}
	if s.cfg.Mode.Uses("dht") && places.DHTPrefix != "" {
		opts.DHT, opts.Prefix = p2p.DHTClient, places.DHTPrefix
		for _, text := range union(s.cfg.Bootstrap, places.Bootstrap) {
			if p, err := bootargs.ParsePeer(text); err == nil {
				opts.Bootstrap = append(opts.Bootstrap, p)
			}
		}
	}
	open, err := openServing(ctx, opts, s.offer(), s.cfg.HTTP)
	if err != nil {
		return err
	}
	now, ready := s.now.Load(), open.ready()
	ready.Release, ready.Head = now.release.Version, now.head.folder.String()
	s.cfg.Ready(ready)
	err = errors.Join(s.follow(ctx, open), open.close())
	s.cfg.Log.Info("seed: ends", "served", bytesOf(s.sent.Load()))
	return err
}

// follow takes up newer heads and tells the DHT, until ctx or the serving ends.
func (s *seed) follow(ctx context.Context, open *serving) error {
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	var told *seeded
	var last time.Time
	for {
		if now := s.now.Load(); open.node.InDHT() && (now != told || time.Since(last) > provideLoop) {
			told, last = now, time.Now()
			go provide(ctx, open.node, now.release, s.cfg.Log)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-open.ended:
			return nil // close says why
		case <-look.C:
			if err := s.load(ctx); err != nil && ctx.Err() == nil {
				s.cfg.Log.Warn("seed: goes on with what it had", "cause", err)
			}
		}
	}
}

func (s *seed) offer() gateway.Options {
	faults := limit.OnceAnHour(s.cfg.Log)
	return gateway.Options{
		Source: s.source(), UploadSlots: shelfSlot, Sent: func(n int64) { s.sent.Add(n) },
		Fault: func(err error) { faults.Error("block not served", "cause", err) },
		IPNS:  func(ctx context.Context, name string) ([]byte, error) { return s.now.Load().record(ctx, name) },
		Have:  func(root cid.Cid) ([]byte, string, error) { return s.now.Load().have(root) },
	}
}

// source is where the gateway reads.
func (s *seed) source() cas.Source {
	if s.cfg.Artifacts == "" {
		return s.store
	}
	return s
}

// Block returns a block of the cache or, where that has none or a damaged one, a leaf of an
// artifact that lies beside it.
func (s *seed) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	data, err := cas.Get(ctx, s.store, c)
	if err == nil || ctx.Err() != nil {
		return data, err
	}
	beside, missing := s.now.Load().Block(ctx, c)
	if missing == nil || errors.Is(err, fs.ErrNotExist) {
		return beside, missing
	}
	return nil, err
}

func (s *seed) places() manifest.Discovery {
	return merge(manifest.OpenStateReadOnly(s.cfg.trustDir()).NewestRoot(s.root).Discovery(), s.root.Discovery())
}

// load finds the newest head that the cache remembers and verifies, and looks again when
// blocks came in: a fetch remembers its head before it has them.
func (s *seed) load(ctx context.Context) error {
	held, err := s.store.Stats(ctx)
	if err != nil {
		return err
	}
	var heads []head
	var refused error
	seen := fmt.Sprintln(held.Blocks)
	for _, name := range s.places().IPNS {
		h, err := s.cfg.readHead(name)
		if err != nil {
			refused = worse(refused, err)
			continue
		}
		heads, seen = append(heads, h), seen+string(h.record)
	}
	if s.now.Load() != nil && seen == s.known {
		return nil
	}
	s.known = seen
	var best *manifest.Verified
	var won head
	for _, h := range heads {
		v, err := s.verify(ctx, h)
		if err != nil {
			refused = worse(refused, err)
		} else if best == nil || newer(v, best) {
			best, won = v, h
		}
	}
	if best == nil {
		return fmt.Errorf("cache %s: no release to serve: %w; phase-boot fetch --cache with the same root.json brings one", s.cfg.Cache, refused)
	}
	was := s.now.Swap(s.stock(ctx, won, best.Release()))
	if was != nil && was.head.folder != won.folder {
		s.cfg.Log.Info("seed: serves a newer head", "release", best.Release().Version, "head", won.folder)
	}
	return nil
}

func (s *seed) verify(ctx context.Context, h head) (*manifest.Verified, error) {
	return manifest.Verify(ctx, newFolder(h.folder, s.store), manifest.Policy{
		Root: s.cfg.Root, Channel: s.cfg.Channel, Arch: s.cfg.Arch,
		State: manifest.OpenStateReadOnly(s.cfg.trustDir()), Now: s.cfg.Now(), Floor: s.cfg.Floor,
	})
}

// stock looks which leaves of a release are there.
func (s *seed) stock(ctx context.Context, h head, r manifest.Release) *seeded {
	out := &seeded{newSharedBlocks(), h, r}
	out.point(h)
	for _, a := range r.Artifacts {
		leaves, err := cas.Leaves(ctx, s.store, a.CID, a.Length)
		if err != nil {
			s.cfg.Log.Info("seed: not in the cache", "artifact", a.Role, "cause", err)
			continue
		}
		file := s.artifact(a)
		out.stock(a.CID, leaves, file)
		for _, l := range leaves {
			if file != nil || s.has(ctx, l.CID) {
				out.verified(l.CID)
			}
		}
	}
	return out
}

func (s *seed) has(ctx context.Context, c cid.Cid) bool {
	ok, err := s.store.Has(ctx, c)
	return ok && err == nil
}

// artifact opens the file of an artifact, nil when there is none of its length. It is
// closed when nobody holds it any more.
func (s *seed) artifact(a manifest.Artifact) io.ReaderAt {
	if s.cfg.Artifacts == "" {
		return nil
	}
	f, err := file.OpenInRoot(s.cfg.Artifacts, a.Role)
	if err != nil {
		s.cfg.Log.Info("seed: only what the cache has", "artifact", a.Role, "cause", err)
		return nil
	}
	if info, err := f.Stat(); err != nil || info.Size() != a.Length {
		s.cfg.Log.Info("seed: only what the cache has", "artifact", a.Role, "cause", "its file is of another release")
		f.Close()
		return nil
	}
	return f
}

// headFile is where a cache remembers the record of a name, for those who ask later.
func (c Config) headFile(name string) string {
	return filepath.Join(c.Cache, "heads", name+".ipns-record")
}

// keepHead remembers the record that won.
func (c Config) keepHead(h head) error {
	if h.record == nil {
		return nil
	}
	path := c.headFile(h.name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := file.CheckFolder(filepath.Dir(path)); err != nil {
		return err
	}
	if errors.Is(file.Check(path, file.NoFollow), file.ErrKind) {
		if err := os.RemoveAll(path); err != nil { // the link or the folder itself, nothing behind it
			return err
		}
	}
	return atomicfile.Write(path, 0o600, h.record)
}

// readHead reads and checks what keepHead wrote. A stranger may have written to the
// folder: only a regular file in a folder that is no link counts.
func (c Config) readHead(name string) (head, error) {
	path, h := c.headFile(name), head{name: name}
	err := file.CheckFolder(filepath.Dir(path))
	if err == nil {
		h.record, err = file.Read(path, file.NoFollow, int64(p2p.MaxRecord))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return head{}, fmt.Errorf("it knows no head of the repository's name %s: %w", name, fs.ErrNotExist)
	case errors.Is(err, file.ErrKind), errors.Is(err, file.ErrTooLarge):
		return head{}, fmt.Errorf("%w: %w", err, cas.ErrCorrupt)
	case err != nil:
		return head{}, err
	}
	if h.folder, h.seq, err = p2p.CheckRecord(name, h.record); err != nil {
		return head{}, fmt.Errorf("%w: %w", manifest.ErrUntrusted, err)
	}
	return h, nil
}
