package publisher

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

const (
	settle    = 50 * time.Millisecond // after a change, for the ones that come with it
	lookAgain = time.Minute           // in case a file system tells no changes
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

// follow keeps the head at what the repository says and its signatures fresh.
func (s *server) follow(ctx context.Context, w *fsnotify.Watcher) {
	pause := min(lookAgain, s.Online.expiry()/8)
	timer := time.NewTimer(settle) // for what changed before the watch began
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
			s.Log.Warn("repository watch", "cause", err)
		case <-timer.C:
			s.noticed.failed(s.refresh(ctx))
			s.notice(ctx)
			timer.Reset(min(pause, s.nextChange(ctx)))
		}
	}
}

// refresh verifies the repository, renews signatures that are getting old or that a
// rotation of keys has overtaken, and moves the head. The first head is loaded also where
// it cannot be signed again. A head whose files changed under an
// unchanged timestamp (a new root) gets a new timestamp, so that the IPNS sequence rises
// with every folder.
func (s *server) refresh(ctx context.Context) error {
	r, err := openRepo(ctx, s.repo.dir)
	if err != nil {
		return err
	}
	p, err := r.published(ctx)
	if err != nil {
		return err
	}
	if p == nil {
		return noRelease(r.dir)
	}
	next, err := readHead(ctx, r.dir)
	if err != nil {
		return err
	}
	behind, err := r.behind(ctx, p)
	if err != nil {
		return err
	}
	due := behind || s.Online.stale(p, s.Now())
	jumped := s.clock.jumped(s.Now(), s.Uptime())
	old, _ := s.heads.current()
	sameTime := old != nil && old.Timestamp == next.Timestamp && !old.Folder.Equals(next.Folder)
	if old != nil && old.Folder.Equals(next.Folder) && !due {
		return s.records.point(old, s.Now())
	}
	var late error
	if sameTime || due {
		if late = jumped; late == nil || s.IgnoreClock {
			late = s.renew(ctx, r, sameTime)
		}
		if late != nil && (old != nil || ctx.Err() != nil) {
			return late
		}
	}
	if late != nil {
		s.noticed.failed(fmt.Errorf("timestamp %d not signed again: %w", next.Timestamp, late))
	}
	return s.load(ctx, r)
}

// renew signs the timestamp again unless another process has done so meanwhile.
func (s *server) renew(ctx context.Context, r *repo, always bool) error {
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := r.checkOnline(s.Online.Public); err != nil {
		return err
	}
	p, err := r.published(ctx)
	if err != nil {
		return err
	}
	if p == nil {
		return noRelease(r.dir)
	}
	if behind, err := r.behind(ctx, p); err != nil || !always && !behind && !s.Online.stale(p, s.Now()) {
		return err
	}
	if p, err = r.ground(ctx, p); err != nil {
		return err
	}
	if err := r.renew(ctx, s.Online, p, s.Now()); err != nil {
		return err
	}
	s.Log.Info("timestamp signed again", "expires", s.Now().Add(s.Online.expiry()).UTC().Format(time.RFC3339))
	return nil
}

// load verifies what is published now and makes it the head.
func (s *server) load(ctx context.Context, r *repo) error {
	releases, err := r.publishedReleases(ctx)
	if len(releases) == 0 {
		if err == nil {
			return noRelease(r.dir)
		}
		return fmt.Errorf("repository %s: %w", r.dir, err)
	}
	if err != nil {
		s.Log.Warn("a channel is left out", "cause", err)
	}
	head, err := readHead(ctx, r.dir)
	if err != nil {
		return err
	}
	if err := s.checkRoots(ctx, releases); err != nil {
		return err
	}
	head.releases, head.taken = releases, s.Now()
	s.heads.add(head) // its blocks first, then what points to them
	if err := s.records.point(head, s.Now()); err != nil {
		return err
	}
	s.heads.tell()
	s.Log.Info("head", "folder", head.Folder, "timestamp", head.Timestamp, "expires", head.Expires.UTC().Format(time.RFC3339), "releases", len(releases))
	return nil
}

// checkRoots wants the root block of every artifact to be there.
func (s *server) checkRoots(ctx context.Context, releases []manifest.Release) error {
	for _, release := range releases {
		for _, a := range release.Artifacts {
			ok, err := s.store.Has(ctx, a.CID)
			if err == nil && !ok {
				err = cas.NotFound(a.CID)
			}
			if err != nil {
				return lost(s.Store, fmt.Errorf("release %q, %s: %w", release.Version, a.Role, err))
			}
		}
	}
	return nil
}
