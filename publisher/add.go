package publisher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// AddOptions name one release and where it goes.
type AddOptions struct {
	Store     string // folder of packs; a new one is made with the first release, and else in an empty folder
	Repo      string // folder that phase-sign init made
	Artifacts string // folder with the files that were signed; "" when the store has them all
	Manifest  []byte // the signed release manifest
	Online    Online
	Now       func() time.Time // nil: time.Now
	Watch     Watch            // nil: nobody watches
	Log       *slog.Logger     // nil: silent

	IgnoreClock bool // sign although the clock contradicts the dates of what is published
}

// Added says what Add did.
type Added struct {
	Channel   string `json:"channel"`
	Arch      string `json:"arch"`
	Release   string `json:"release"`
	Number    int64  `json:"role_version"`
	Unchanged bool   `json:"unchanged"` // the very same manifest was published before
	Snapshot  int64  `json:"snapshot_version"`
	Timestamp int64  `json:"timestamp_version"`
	Expires   string `json:"timestamp_expires"`
	Head      string `json:"head"` // CID of the metadata folder
	Ingest
}

// Add publishes one release: it checks the manifest against the repository's root and
// delegation, chunks every artifact into the store while comparing it with the manifest,
// and then writes the manifest, a new snapshot and, last, a new timestamp into the
// repository. Until then the repository is not touched.
//
// Errors wrap manifest.ErrUntrusted (a foreign manifest or online key, a version that
// is not newer, a date of signing that is still to come), cas.ErrCorrupt (an artifact that is not the one that was signed) or
// fs.ErrNotExist. Adding the very same manifest again is no error.
func Add(ctx context.Context, opts AddOptions) (Added, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	r, err := openRepo(ctx, opts.Repo)
	if err != nil {
		return Added{}, err
	}
	if err := r.checkOnline(opts.Online.Public); err != nil {
		return Added{}, err
	}
	release, err := r.judge(ctx, opts)
	if err != nil {
		return Added{}, err
	}
	out := Added{Channel: release.Channel, Arch: release.Arch, Release: release.Version, Number: release.Number}
	files, err := findArtifacts(ctx, opts.Artifacts, release)
	if err != nil {
		return Added{}, err
	}
	store, made, err := r.openFor(ctx, opts.Store, opts.Log)
	if err != nil {
		return Added{}, err
	}
	// the store is ours until the repository names the release: Collect cannot come between
	if out.Ingest, err = ingestAll(ctx, store, release, files, opts.Watch); err == nil {
		err = r.advance(ctx, opts, release, &out)
	} else {
		err = r.lostOr(context.WithoutCancel(ctx), opts.Store, store, err)
	}
	if cerr := store.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return Added{}, errors.Join(err, r.takeBack(made))
	}
	head, err := readHead(ctx, r.dir)
	if err != nil {
		return Added{}, err
	}
	out.Head, out.Timestamp, out.Snapshot = head.Folder.String(), head.Timestamp, head.snapshot
	out.Expires = head.Expires.UTC().Format(time.RFC3339)
	return out, nil
}

// takeBack removes a store that was made for nothing. Where a newer timestamp is published by
// now, the error came after that, and the store stays.
func (r *repo) takeBack(made newStore) error {
	p, err := r.published(context.Background())
	if err != nil || p != nil && p.timestamp.Signed.Version != made.timestamp {
		return nil
	}
	return made.remove()
}

// judge checks a manifest that is to be published, and the clock that would date it.
func (r *repo) judge(ctx context.Context, opts AddOptions) (manifest.Release, error) {
	data, now := opts.Manifest, opts.Now()
	targets, err := r.newestTargets(ctx)
	if err != nil {
		return manifest.Release{}, err
	}
	release, err := manifest.CheckRole(r.rootData, targets.Data, data, now)
	if err != nil {
		return release, err
	}
	was, err := r.published(ctx)
	if err != nil {
		return release, err
	}
	prev, err := r.ground(ctx, was)
	if err != nil {
		return release, err
	}
	known, err := r.isPublished(ctx, prev, release, data)
	if err != nil || known {
		return release, err
	}
	if err := release.CheckSignedAt(now); err != nil {
		return release, err
	}
	return release, r.agreesWithClock(was, opts)
}

// agreesWithClock refuses to sign with a clock that contradicts what is published. After the
// online key was replaced, the dates of the old one count for nothing.
func (r *repo) agreesWithClock(p *published, opts AddOptions) error {
	if opts.IgnoreClock || p == nil || r.replaced(p) {
		return nil
	}
	return checkClock(p, opts.Now())
}

// isPublished reports whether this very manifest is the published one. One that is not
// newer than the published one is refused.
func (r *repo) isPublished(ctx context.Context, prev *published, release manifest.Release, data []byte) (bool, error) {
	name, err := manifest.RoleName(release.Channel, release.Arch)
	if err != nil {
		return false, err
	}
	old := prev.roleVersion(name)
	if release.Number > old {
		return false, nil
	}
	if release.Number == old {
		kept, err := r.read(ctx, manifest.FileName(name, old), manifest.KindRole)
		if err != nil {
			return false, err
		}
		if bytes.Equal(kept, data) {
			return true, nil
		}
	}
	return false, fmt.Errorf("release %q: %s version %d is not newer than version %d, which is published; sign it again with phase-sign release, which takes the next version: %w",
		release.Version, name, release.Number, old, manifest.ErrRollback)
}

// findArtifacts looks for all artifacts before any is read; nil when the store has them.
func findArtifacts(ctx context.Context, dir string, release manifest.Release) ([]string, error) {
	if dir == "" {
		return nil, nil
	}
	if info, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("artifacts %s: %w; name the folder with the signed files", dir, fs.ErrNotExist)
	} else if err != nil {
		return nil, fmt.Errorf("artifacts: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("artifacts %s: is a file (%w); name the folder with the signed files", dir, fs.ErrInvalid)
	}
	there, err := listCandidates(ctx, dir)
	if err != nil {
		return nil, err
	}
	files := make([]string, len(release.Artifacts))
	for i, a := range release.Artifacts {
		if files[i], err = there.find(ctx, a); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// ingestAll brings all artifacts into the store, a few side by side. Without files they
// must be there.
func ingestAll(ctx context.Context, store cas.Store, release manifest.Release, files []string, watch Watch) (Ingest, error) {
	if files == nil {
		return allStored(ctx, store, release)
	}
	parts := make([]Ingest, len(files))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, a := range release.Artifacts {
		g.Go(func() error { return parts[i].ingest(gctx, store, a, files[i], watch) })
	}
	err := g.Wait()
	var sum Ingest
	for _, n := range parts {
		sum.add(n)
	}
	if err != nil {
		return sum, err
	}
	return sum, store.Sync(ctx)
}

// advance moves the head to the release, or renews the timestamp of one that is there.
func (r *repo) advance(ctx context.Context, opts AddOptions, release manifest.Release, out *Added) error {
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	was, err := r.published(ctx)
	if err != nil {
		return err
	}
	prev, err := r.ground(ctx, was)
	if err != nil {
		return err
	}
	if out.Unchanged, err = r.isPublished(ctx, prev, release, opts.Manifest); err != nil {
		return err
	}
	if out.Unchanged {
		if behind, err := r.behind(ctx, was); err != nil || !behind && !opts.Online.stale(was, opts.Now()) {
			return err
		}
		if err := r.agreesWithClock(was, opts); err != nil {
			return err
		}
		return r.renew(ctx, opts.Online, prev, opts.Now())
	}
	name, err := manifest.RoleName(release.Channel, release.Arch)
	if err != nil {
		return err
	}
	return r.publish(ctx, opts.Online, prev, manifest.File{Role: name, Version: release.Number, Data: opts.Manifest}, opts.Now())
}
