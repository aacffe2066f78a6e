package ingest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/bucket"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/store"
)

// Options name one release, and the store and repository that it is added to.
type Options struct {
	Store     string // folder of packs, or an address s3://BUCKET/PREFIX; made for the first release, later only in an empty folder
	NewStore  bool   // make the store in an object store although releases are published
	Repo      string // folder that phase-sign init made
	Artifacts string // folder with the files that were signed; "" when the store has them all
	Manifest  []byte // the signed release manifest
	Online    repo.OnlineKey
	Now       func() time.Time // nil: time.Now
	Watch     Watch            // nil: no progress is reported
	Log       *slog.Logger     // nil: silent

	IgnoreClock bool // sign although the clock contradicts the dates of what is published
}

// Added is what Add did.
type Added struct {
	Channel   string `json:"channel"`
	Arch      string `json:"arch"`
	Release   string `json:"release"`
	Number    int64  `json:"role_version"`
	Unchanged bool   `json:"unchanged"` // the same manifest was published before
	Snapshot  int64  `json:"snapshot_version"`
	Timestamp int64  `json:"timestamp_version"`
	Expires   string `json:"timestamp_expires"`
	Pointer   string `json:"head"` // CID of the metadata folder
	Counts
}

// Add publishes one release: it checks the manifest against the repository's root and
// delegation, chunks every artifact into the store while comparing it with the manifest,
// and then writes the manifest, a new snapshot and, last, a new timestamp into the
// repository. Until then the repository is not changed.
//
// Errors wrap manifest.ErrUntrusted (a manifest or an online key that the root does not
// delegate to, a version that is not newer, a date of signing in the future),
// cas.ErrCorrupt (an artifact that differs from the manifest) or fs.ErrNotExist. Adding the
// same manifest again is no error.
func Add(ctx context.Context, opts Options) (Added, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	opts.Log = cmp.Or(opts.Log, slog.New(slog.DiscardHandler))
	r, err := repo.Open(ctx, opts.Repo)
	if err != nil {
		return Added{}, err
	}
	if err := r.CheckOnlineKey(opts.Online.Public); err != nil {
		return Added{}, err
	}
	release, err := r.Check(ctx, opts.Manifest, opts.signing())
	if err != nil {
		return Added{}, err
	}
	out := Added{Channel: release.Channel, Arch: release.Arch, Release: release.Version, Number: release.Number}
	files, folder, err := findArtifacts(ctx, opts.Artifacts, release)
	if err != nil {
		return Added{}, err
	}
	packs, made, err := store.OpenFor(ctx, r, opts.Store, opts.NewStore, opts.Log)
	if err != nil {
		return Added{}, err
	}
	p, err := out.publish(ctx, r, packs, release, files, folder, opts)
	if cerr := packs.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return Added{}, errors.Join(err, made.Undo(r))
	}
	out.Pointer, out.Timestamp, out.Snapshot = p.Folder.String(), p.Timestamp, p.Snapshot
	out.Expires = p.Expires.UTC().Format(time.RFC3339)
	return out, nil
}

// publish stores the artifacts and publishes the release. This process has the store's lock until
// the repository names the release, so gc cannot remove its blocks in between; and until the metadata
// are written for replicas, so an add that began later does not write them before.
func (a *Added) publish(ctx context.Context, r *repo.Repo, packs store.Packs, release manifest.Release, files []string, folder candidates, opts Options) (*repo.Pointer, error) {
	var err error
	if a.Counts, err = ingestAll(ctx, packs, release, files, folder, opts.Watch); err != nil {
		return nil, store.ExplainMissing(context.WithoutCancel(ctx), r, opts.Store, packs, err)
	}
	if a.Unchanged, err = r.Publish(ctx, release, opts.Manifest, opts.signing()); err != nil {
		return nil, err
	}
	p, err := r.ReadPointer(ctx)
	if err != nil || !bucket.Is(opts.Store) {
		return p, err
	}
	if err := store.PutMetadata(ctx, opts.Store, p, nil); err != nil { // phase-publish serve adds the IPNS record
		return nil, fmt.Errorf("the release is published in %s, and not for replicas: %w; run it again", opts.Repo, err)
	}
	return p, nil
}

func (o Options) signing() repo.Signing {
	return repo.Signing{Key: o.Online, Now: o.Now(), IgnoreClock: o.IgnoreClock}
}

// findArtifacts finds the files of all artifacts before any is read, and lists the folder. It
// returns nil when no folder is named, because the store has them all.
func findArtifacts(ctx context.Context, dir string, release manifest.Release) ([]string, candidates, error) {
	if dir == "" {
		return nil, candidates{}, nil
	}
	if info, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, candidates{}, fmt.Errorf("artifacts %s: %w; name the folder with the signed files", dir, fs.ErrNotExist)
	} else if err != nil {
		return nil, candidates{}, fmt.Errorf("artifacts: %w", err)
	} else if !info.IsDir() {
		return nil, candidates{}, fmt.Errorf("artifacts %s: is a file (%w); name the folder with the signed files", dir, fs.ErrInvalid)
	}
	all, err := listCandidates(ctx, dir)
	if err != nil {
		return nil, all, err
	}
	files := make([]string, len(release.Artifacts))
	for i, a := range release.Artifacts {
		if files[i], err = all.find(ctx, a); err != nil {
			return nil, all, err
		}
	}
	return files, all, nil
}

// ingestAll brings all artifacts into the store, several at once, and then those of the earlier
// releases beside it that the store lacks. Without files it checks that the store has them.
func ingestAll(ctx context.Context, packs store.Packs, release manifest.Release, files []string, folder candidates, watch Watch) (Counts, error) {
	if files == nil {
		sum, err := checkStored(ctx, packs, release)
		if err == nil {
			err = sum.ingestEarlier(ctx, packs, release, folder, watch)
		}
		if err != nil {
			return sum, err
		}
		return sum, packs.Sync(ctx) // no other process has removed a block meanwhile
	}
	parts := make([]Counts, len(files))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, a := range release.Artifacts {
		g.Go(func() error { return parts[i].ingest(gctx, packs, a, files[i], watch) })
	}
	err := g.Wait()
	var sum Counts
	for _, n := range parts {
		sum.add(n)
	}
	if err == nil {
		err = sum.ingestEarlier(ctx, packs, release, folder, watch)
	}
	if err != nil {
		return sum, err
	}
	return sum, packs.Sync(ctx)
}
