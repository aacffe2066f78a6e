package publisher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// A Status is what a store and a repository hold.
type Status struct {
	Store    cas.Stats          `json:"store"`
	Root     int64              `json:"root_version"`
	Head     string             `json:"head"` // CID of the metadata folder, "" when nothing is published
	Sequence int64              `json:"timestamp_version"`
	Expires  time.Time          `json:"timestamp_expires"`
	Expired  bool               `json:"expired"`
	Channels []manifest.Release `json:"releases"`
	Refused  string             `json:"refused"` // why channels are left out, "" when none is
	Warning  string             `json:"warning"` // what is not published that should be, "" when nothing is
}

// ReadStatus reads a store and a repository, and verifies what is published. An expired
// timestamp is a fact that it reports, not an error.
func ReadStatus(ctx context.Context, store, dir string, now time.Time) (Status, error) {
	r, err := openRepo(ctx, dir)
	if err != nil {
		return Status{}, err
	}
	s := Status{Root: r.root.Version(), Channels: []manifest.Release{}}
	if s.Store, err = storeStats(ctx, store); err != nil {
		return Status{}, err
	}
	p, err := r.published(ctx)
	if err != nil || p == nil {
		return s, err
	}
	head, err := readHead(ctx, dir)
	if err != nil {
		return Status{}, err
	}
	s.Head, s.Sequence, s.Expires = head.Folder.String(), head.Timestamp, head.Expires.UTC()
	s.Expired = !now.Before(s.Expires)
	if r.replaced(p) {
		s.Refused = fmt.Sprintf("root version %d replaced the online key; run phase-publish serve, or add, with the new one", r.root.Version())
		return s, nil
	}
	if s.Warning, err = r.unpublished(ctx, p); err != nil {
		return Status{}, err
	}
	releases, err := r.releases(ctx, p, now)
	if err != nil {
		if len(releases) == 0 && !errors.Is(err, manifest.ErrExpired) {
			return Status{}, err
		}
		s.Refused = err.Error()
	}
	s.Channels = append(s.Channels, releases...)
	return s, nil
}

func storeStats(ctx context.Context, dir string) (cas.Stats, error) {
	store, err := openStore(dir, nil)
	if err != nil {
		return cas.Stats{}, err
	}
	defer store.Close()
	return store.Stats(ctx)
}
