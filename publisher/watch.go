package publisher

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/bucket"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/store"
)

const (
	settle = 50 * time.Millisecond // after a change, for the other files of the same update
	poll   = time.Minute           // for file systems that report no changes
)

// watchRepo reports changes of a repository's files.
func watchRepo(dir string) (*fsnotify.Watcher, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("repository %s: watch: %w", dir, err)
	}
	if err := w.Add(dir); err != nil {
		w.Close()
		return nil, fmt.Errorf("repository %s: watch: %w", dir, err)
	}
	return w, nil
}

// follow moves the pointer to what the repository publishes, and renews its signatures.
func (s *server) follow(ctx context.Context, w *fsnotify.Watcher) {
	interval := min(poll, s.Online.TimestampExpiry()/8)
	if s.Replica {
		interval = replicaPoll
	}
	timer := time.NewTimer(settle) // for changes before the watch began
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.Events:
			if !ok {
				return
			}
			if filepath.Ext(e.Name) == ".json" {
				timer.Reset(settle)
			}
		case err := <-w.Errors:
			s.Log.Warn("repository watch failed", "cause", err)
		case <-timer.C:
			err := s.refresh(ctx)
			s.refreshErr.Store(&err)
			s.report(ctx)
			timer.Reset(min(interval, s.nextChange(ctx)))
		}
	}
}

func (s *server) signing() repo.Signing {
	return repo.Signing{Key: s.Online, Now: s.Now(), IgnoreClock: s.IgnoreClock}
}

// refresh verifies the repository, signs the timestamp again where that is due, and moves
// the pointer. The first pointer is loaded even when the timestamp cannot be signed again.
// A folder that changed under the same timestamp (a new root) gets a new timestamp, so that
// the IPNS sequence rises with every folder.
func (s *server) refresh(ctx context.Context) error {
	if s.Replica {
		return s.refreshReplica(ctx)
	}
	r, err := repo.Open(ctx, s.repo.Dir)
	if err != nil {
		return err
	}
	next, err := r.ReadPointer(ctx)
	if err != nil {
		return err
	}
	due, err := r.Due(ctx, next.Published, s.signing())
	if err != nil {
		return err
	}
	old, _ := s.source.current()
	if old != nil && old.Folder.Equals(next.Folder) && !due {
		return s.point(ctx, old.Pointer)
	}
	if sameTime := old != nil && old.Timestamp == next.Timestamp && !old.Folder.Equals(next.Folder); sameTime || due {
		if err := s.renew(ctx, r, sameTime); err != nil {
			if old != nil || ctx.Err() != nil {
				return err
			}
			err = fmt.Errorf("timestamp %d not signed again: %w", next.Timestamp, err)
			s.refreshErr.Store(&err)
		}
	}
	return s.load(ctx, r)
}

// renew signs the timestamp again, unless the clock was set ahead or another process signed.
func (s *server) renew(ctx context.Context, r *repo.Repo, always bool) error {
	if err := s.clock.CheckJump(s.Now(), s.Uptime()); err != nil && !s.IgnoreClock {
		return err
	}
	renewed, err := r.Renew(ctx, always, s.signing())
	if renewed && err == nil {
		s.Log.Info("timestamp renewed", "expires", s.Now().Add(s.Online.TimestampExpiry()).UTC().Format(time.RFC3339))
	}
	return err
}

// load verifies what is published and serves it as the newest generation.
func (s *server) load(ctx context.Context, r *repo.Repo) error {
	releases, err := r.PublishedReleases(ctx)
	if len(releases) == 0 {
		if err == nil {
			return r.NoRelease()
		}
		return fmt.Errorf("repository %s: %w", r.Dir, err)
	}
	if err != nil {
		s.Log.Warn("channel left out", "cause", err)
	}
	p, err := r.ReadPointer(ctx)
	if err != nil {
		return err
	}
	old, _ := s.source.current()
	if bucket.Is(s.Store) && (old == nil || !slices.Equal(artifacts(old.releases), artifacts(releases))) { // its packs are not listed yet
		if _, err := s.packs.Stats(ctx); err != nil {
			return err
		}
	}
	if err := s.checkRoots(ctx, releases); err != nil {
		return err
	}
	next, err := newGeneration(p, releases, s.Now())
	if err != nil {
		return err
	}
	s.source.add(next) // before the record that points to it
	record, err := s.record().Point(p, s.Now())
	if err != nil {
		return err
	}
	s.source.notify()
	s.Log.Info("pointer moved", "folder", p.Folder, "timestamp", p.Timestamp, "expires", p.Expires.UTC().Format(time.RFC3339), "releases", len(releases))
	s.publishMetadata(ctx, p, record)
	return nil
}

// artifacts lists the CIDs of the artifacts of releases.
func artifacts(releases []manifest.Release) (list []cid.Cid) {
	for _, a := range repo.Artifacts(releases...) {
		list = append(list, a.CID)
	}
	return list
}

// point signs the IPNS record, and writes both into an object store where replicas read it.
func (s *server) point(ctx context.Context, p *repo.Pointer) error {
	record, err := s.record().Point(p, s.Now())
	if err == nil {
		s.publishMetadata(ctx, p, record)
	}
	return err
}

// checkRoots checks that the store has the root block of every artifact.
func (s *server) checkRoots(ctx context.Context, releases []manifest.Release) error {
	for r, a := range repo.Artifacts(releases...) {
		if err := store.Listed(ctx, s.packs, a.CID); err != nil {
			return store.MustHave(s.Store, fmt.Errorf("release %q, %s: %w", r.Version, a.Role, err))
		}
	}
	return nil
}
