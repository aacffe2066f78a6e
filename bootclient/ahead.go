package bootclient

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/bootclient/fetch"
	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/resolve"
	"github.com/phaseboot/phaseboot/bootclient/share"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// MinRate is the lowest rate of a fetch ahead, in bytes per second: a run of 4 MiB then ends well within the patience.
const MinRate = 64 << 10

// AheadOptions say what FetchAhead may do.
type AheadOptions struct {
	Running manifest.Release // the release that this machine runs; its blocks stay in the cache
	Rate    int64            // bytes per second on average, at least MinRate; 0 for no limit
	// MayFetch reports whether the artifacts of a release may be fetched now; nil for always. A release that the settings
	// of this machine ask for (manifest.Settings.Preheat) is fetched in any case.
	MayFetch func(manifest.Release) bool
	// Wants reports whether this machine uses an artifact of a release; nil for each.
	Wants func(r manifest.Release, role string) bool
	Seen  *Seen // by calls before this one; nil for none
}

// Seen has the newest versions of metadata that FetchAhead has verified. The cache has them only when a release is whole there:
// without Seen, an older release could be offered again to a machine that waits. Use one Seen for one call at a time.
type Seen struct{ root, targets, timestamp, role, settings int64 }

// advance takes the versions of v. It refuses lower ones than before: the error wraps manifest.ErrRollback. A newer root.json may
// have other keys, and its versions may be lower; so may those of roles with a newer targets.json.
func (s *Seen) advance(v *manifest.Verified) error {
	if s == nil {
		return nil
	}
	now := Seen{v.RootVersion(), v.TargetsVersion(), v.TimestampVersion(), v.Newest().Number, v.Settings().Number}
	for _, c := range []struct {
		file    string
		is, was int64
		resets  bool // the next files have other floors if this one is newer
	}{
		{"root.json", now.root, s.root, true},
		{"timestamp.json", now.timestamp, s.timestamp, false},
		{"targets.json", now.targets, s.targets, true},
		{"the role of the channel", now.role, s.role, false},
		{"the role config", now.settings, s.settings, false},
	} {
		if c.is < c.was {
			return fmt.Errorf("%w: %s has version %d, and version %d was seen; name another source", manifest.ErrRollback, c.file, c.is, c.was)
		}
		if c.resets && c.is > c.was {
			break
		}
	}
	*s = now
	return nil
}

// States of an Ahead.
const (
	Current = "current" // this machine runs the release that it would boot
	Waiting = "waiting" // another release is known, and may not be fetched now
	Fetched = "ready"   // another release is whole in the cache, and was verified there
)

// An Ahead is what FetchAhead has found and done.
type Ahead struct {
	State     string
	Release   manifest.Release // that this machine boots the next time
	Timestamp int64            // TUF version of its timestamp
	Bytes     int64            // fetched from sources
	Preheat   bool             // the settings of this machine ask for the release
	Offline   bool             // no source has answered; the release is that of the cache
}

// FetchAhead finds the release that this machine would boot now, as Run does. If it is not the running one, FetchAhead
// fetches its artifacts into the cache, reads all of them back and verifies them there. Only then it saves the pointer
// and the metadata: until that moment, and after a crash, the cache is as good for the running release as before.
// The blocks of the running release, of the newest blessed one, and of the one that a boot without a source takes are not
// removed. It serves nothing.
//
// It opens the cache for writing only while it fetches, so that a boot, or another FetchAhead, can have the lock. The errors are
// those of Run; one wraps pack.ErrBusy if another process writes to the cache, and syscall.ENOSPC if the release has no room.
func FetchAhead(ctx context.Context, cfg Config, o AheadOptions) (Ahead, error) {
	cfg = cfg.complete()
	switch {
	case cfg.Cache == "" || cfg.Mode.Cache != "rw":
		return Ahead{}, refusal.Invalid("mode %s: no cache that may be written; nothing can be fetched ahead", cfg.Mode.Name)
	case o.Rate != 0 && o.Rate < MinRate:
		return Ahead{}, refusal.Invalid("rate: %d bytes per second, at least %d are needed", o.Rate, MinRate)
	}
	a := &aheadRun{cfg: cfg, o: o}
	return a.run(ctx)
}

// An aheadRun is one call of FetchAhead.
type aheadRun struct {
	cfg     Config
	o       AheadOptions
	disc    *peers.Discovery
	sharing *share.Sharing
	names   []string // trusted IPNS names
	won     resolve.Result
}

func (a *aheadRun) run(ctx context.Context) (Ahead, error) {
	root, err := manifest.ParseRoot(a.cfg.Root)
	if err != nil {
		return Ahead{}, err
	}
	trust := a.cfg.addresses(root)
	if a.sharing, a.disc, err = a.cfg.discover(ctx, trust, share.Options{}); err != nil {
		return Ahead{}, err
	}
	defer a.sharing.Close()
	defer a.disc.Close()
	held, err := a.open(ctx, true)
	if err != nil {
		return Ahead{}, err
	}
	defer held.Close()
	a.names = trust.IPNS
	return a.decide(ctx, held)
}

// open opens the cache.
func (a *aheadRun) open(ctx context.Context, readOnly bool) (*cache.Cache, error) {
	options := a.cfg.cacheOptions()
	options.ReadOnly, options.Strict = readOnly, !readOnly // a damaged cache is not recreated below a running system
	return cache.Open(ctx, options)
}

// decide finds the release and fetches it if that is allowed. held is the cache for reading, which it closes before it writes.
func (a *aheadRun) decide(ctx context.Context, held *cache.Cache) (Ahead, error) {
	none := func(context.Context, manifest.Release, peers.Pool) {}
	won, err := resolve.Find(ctx, resolve.Options{Policy: a.cfg.policy, Names: a.names, Early: none}, a.disc, held)
	if err != nil {
		return Ahead{}, err
	}
	if err := CheckRunning(won.Verified, a.o.Running); err != nil {
		return Ahead{}, err
	}
	if !won.FromCache() { // that is never fetched
		if err := a.o.Seen.advance(won.Verified); err != nil {
			return Ahead{}, err
		}
	}
	newest := won
	won, _ = fallBack(a.cfg, won)
	a.won = newest
	release := won.Verified.Release()
	out := Ahead{State: Fetched, Release: release, Timestamp: newest.Verified.TimestampVersion(), Offline: newest.FromCache()}
	out.Preheat = newest.Verified.Settings().Preheat == release.Version
	if release.Content() == a.o.Running.Content() {
		out.State = Current
	}
	whole := resolve.Holds(ctx, release, held) == nil
	switch {
	case whole && a.saved():
		return out, nil
	case out.State == Current && !whole:
		return out, nil
	case !whole && !out.Preheat && a.o.MayFetch != nil && !a.o.MayFetch(release):
		out.State = Waiting
		return out, nil
	}
	known := whole && (out.State == Current || a.fetched(ctx, release, held))
	held.Close() // a file that is removed below it would still need room on the disk
	out.Bytes, err = a.fetch(ctx, won.Verified, known)
	return out, err
}

// fetched reports whether an earlier call has read the artifacts of a release back: it saved a pointer to its metadata.
func (a *aheadRun) fetched(ctx context.Context, r manifest.Release, c *cache.Cache) bool {
	saved, err := resolve.Cached(ctx, resolve.Options{Policy: a.cfg.policy, Names: a.names}, c, true)
	return err == nil && saved.Release().Content() == r.Content()
}

// CheckRunning refuses metadata that are older than the release that this machine runs, by the version of the role: a signed
// rollback has a higher one. The cache may be an old copy, and its saved versions are then too low. The error wraps
// manifest.ErrRollback.
func CheckRunning(v *manifest.Verified, running manifest.Release) error {
	newest := v.Newest()
	if newest.Channel == running.Channel && newest.Arch == running.Arch && newest.Number < running.Number {
		return fmt.Errorf("%w: release %.80q has role version %d, and this machine runs version %d; name another source, or fetch again with phase-boot watch --once",
			manifest.ErrRollback, newest.Version, newest.Number, running.Number)
	}
	return nil
}

// saved reports whether the cache has the pointer to the metadata that were found.
func (a *aheadRun) saved() bool {
	ptr, err := resolve.SavedPointer(a.cfg.cacheDir(), a.won.Pointer.Name)
	return a.won.Pointer.Record == nil || err == nil && ptr.Directory == a.won.Pointer.Directory
}

// fetch brings a release into the cache and verifies it there; of one that is known to be there, only the metadata. It returns
// the bytes that sources have sent.
func (a *aheadRun) fetch(ctx context.Context, v *manifest.Verified, known bool) (n int64, err error) {
	c, err := a.open(ctx, false)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	release, pool := v.Release(), peers.Pool{Memory: a.won.Memory, Cache: c, Sources: a.disc.Sources, Prefer: a.won.Pointer.From}
	a.sharing.Publish(release, a.won.Directory.Unread(), pool)
	if !known {
		err = a.artifacts(ctx, v, c)
	}
	for _, s := range a.disc.Sources.Stats() {
		n += s.Bytes
	}
	a.cfg.Report.SetSources(present(a.disc, c))
	if err != nil {
		return n, err
	}
	a.sharing.AwaitMetadata()
	for id, data := range a.won.Memory.All() {
		c.Put(ctx, id, data)
	}
	c.Sync(ctx)
	if err := c.WriteError(); err != nil { // what is read back may come from memory
		return n, fmt.Errorf("cache %s: %w", a.cfg.Cache, err)
	}
	if err := a.verify(ctx, release, c, known); err != nil {
		return n, err
	}
	a.won.Directory = resolve.NewDirectory(a.won.Pointer.Directory, peers.Pool{Cache: c})
	if err := a.won.Save(ctx, a.cfg.cacheDir(), a.cfg.policy()); err != nil {
		return n, fmt.Errorf("cache %s: saving the release: %w", a.cfg.Cache, err)
	}
	return n, nil
}

// artifacts fetches the artifacts of a release into the cache.
func (a *aheadRun) artifacts(ctx context.Context, v *manifest.Verified, c *cache.Cache) error {
	keep, err := a.kept(ctx, c)
	if err != nil {
		return err
	}
	_, err = fetch.All(ctx, fetch.Options{
		Verified: v, From: a.won.Pointer.From, Memory: a.won.Memory, Unread: a.won.Directory.Unread(), MakeRoom: true, Keep: keep, MustFit: true,
		Rate: a.o.Rate, Shared: (*share.Blocks)(nil), Progress: a.cfg.Progress,
	}, a.disc, c, aheadSink{v.Release(), a.o.Wants})
	return err
}

// kept returns a function that reports whether a block belongs to the running release, to the newest blessed one, to the one
// that a boot without a source takes, or to the metadata with which that boot verifies it. Of a file of which the cache lacks a node, only
// the first blocks are kept: it is not whole.
func (a *aheadRun) kept(ctx context.Context, c *cache.Cache) (func(cid.Cid) bool, error) {
	releases := []manifest.Release{a.o.Running}
	if older, err := a.cfg.blessed(a.won.Verified); err == nil {
		releases = append(releases, older.Release())
	}
	if saved, err := resolve.Cached(ctx, resolve.Options{Policy: a.cfg.policy, Names: a.names}, c, true); err == nil {
		releases = append(releases, saved.Release()) // it may wait for its start, and the saved versions allow no older one
	}
	var files []cid.Cid
	for _, r := range releases {
		for _, artifact := range r.Artifacts {
			files = append(files, artifact.CID)
		}
	}
	disk, set := peers.Pool{Cache: c}, map[cid.Cid]bool{}
	for _, name := range a.names {
		ptr, err := resolve.SavedPointer(c.Dir, name)
		if err != nil {
			continue
		}
		entries, _ := cas.ReadDir(ctx, disk, ptr.Directory) // without it there is nothing to keep
		set[ptr.Directory] = true
		for _, e := range entries {
			files = append(files, e.CID)
		}
	}
	for _, id := range files {
		err := cas.Blocks(ctx, disk, id, func(id cid.Cid) error { set[id] = true; return nil })
		if err != nil && ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return func(id cid.Cid) bool { return set[id] }, nil
}

// verify reads the metadata from the disk, and every artifact of a release that is not known to be there, and compares them
// with what is signed.
func (a *aheadRun) verify(ctx context.Context, r manifest.Release, c *cache.Cache, known bool) error {
	disk := peers.Pool{Cache: c}
	if a.won.Pointer.Directory.Defined() {
		if _, err := manifest.Verify(ctx, resolve.NewDirectory(a.won.Pointer.Directory, disk), a.cfg.policy()); err != nil {
			return fmt.Errorf("cache %s: the metadata: %w", a.cfg.Cache, err)
		}
	}
	for _, artifact := range r.Artifacts {
		if known || !(aheadSink{r, a.o.Wants}).wants(artifact.Role) {
			continue
		}
		sum := sha256.New()
		if err := cas.Copy(ctx, sum, disk, artifact.CID, artifact.Length); err != nil {
			return fmt.Errorf("cache %s: %s: reading back: %w", a.cfg.Cache, artifact.Role, err)
		}
		if got := hex.EncodeToString(sum.Sum(nil)); got != artifact.SHA256 {
			return fmt.Errorf("cache %s: %s: sha256 %s, signed is %s: %w", a.cfg.Cache, artifact.Role, got, artifact.SHA256, cas.ErrCorrupt)
		}
	}
	return nil
}

// An aheadSink is the sink of a fetch of which only the cache keeps the blocks.
type aheadSink struct {
	release manifest.Release
	want    func(r manifest.Release, role string) bool
}

func (s aheadSink) wants(role string) bool {
	return !manifest.IsBootSet(role) && (s.want == nil || s.want(s.release, role))
}

// Open implements fetch.Sink.
func (s aheadSink) Open(role string, _ int64) (fetch.Target, error) {
	if !s.wants(role) {
		return nil, nil
	}
	return nowhere{}, nil
}

// VerifiesSHA256 implements fetch.SelfVerifier: FetchAhead reads all artifacts back.
func (s aheadSink) VerifiesSHA256() {}

// nowhere is a target that keeps nothing.
type nowhere struct{}

// WriteAt drops the bytes.
func (nowhere) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }

// ReadAt has nothing to read.
func (nowhere) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }
