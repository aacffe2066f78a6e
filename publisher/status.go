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
	Damage   string             `json:"damage"`  // what of the releases the store does not list, "" when nothing
}

// ReadStatus reads a store and a repository, and verifies what is published. An expired
// timestamp, or a store that lacks blocks, is a fact that it reports, not an error. Blocks
// are not hashed: see Fsck.
func ReadStatus(ctx context.Context, store, dir string, now time.Time) (Status, error) {
	r, err := openRepo(ctx, dir)
	if err != nil {
		return Status{}, err
	}
	s := Status{Root: r.root.Version(), Channels: []manifest.Release{}}
	packs, err := openStore(store, nil)
	if err != nil {
		return Status{}, err
	}
	defer packs.Close()
	if s.Store, err = packs.Stats(ctx); err != nil {
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
	if err := whole(ctx, packs, releases); err != nil {
		s.Damage = err.Error()
	}
	return s, ctx.Err()
}
