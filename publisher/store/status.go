package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

// A Status is what a store and a repository contain, and what machines do with it.
type Status struct {
	Store    pack.Stats `json:"store"`
	Root     int64      `json:"root_version"`
	Pointer  string     `json:"head"` // CID of the metadata folder, "" when nothing is published
	Sequence int64      `json:"timestamp_version"`
	Expires  time.Time  `json:"timestamp_expires"` // of timestamp or snapshot, the earlier
	Expired  bool       `json:"expired"`           // a file of Verdict has expired
	repo.Verdict
	Releases []manifest.Release `json:"releases"` // that are published, accepted by machines or not
	Refused  string             `json:"refused"`  // what machines refuse and why, "" when they accept every release
	Clock    string             `json:"clock"`    // how the clock contradicts what is published, "" when it does not
	Warning  string             `json:"warning"`  // targets that are not published, files that end soon; "" when there are none
	Damage   string             `json:"damage"`   // the first block of the releases that the store does not list, "" when it lists all

	err error
}

// Err is nil when machines accept every release, the clock agrees with what is published and
// the store is complete. It wraps the errors of manifest, or cas.ErrCorrupt.
func (s Status) Err() error { return s.err }

// StatusOptions name a store and a repository.
type StatusOptions struct {
	Store, Repo string
	Packs       Packs            // the store, when it is open already
	Now         func() time.Time // nil: time.Now
	IgnoreClock bool             // a clock that contradicts what is published is no error
}

// ReadStatus reads a store and a repository, and judges what is published as machines do.
// Refusals and missing blocks are in Status.Err, not in the error of ReadStatus. Blocks are
// not hashed: see Fsck.
func ReadStatus(ctx context.Context, o StatusOptions) (Status, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	r, err := repo.Open(ctx, o.Repo)
	if err != nil {
		return Status{}, err
	}
	s := Status{Root: r.Root.Version(), Releases: []manifest.Release{}, Verdict: repo.Verdict{Files: []repo.FileDate{}, Channels: []repo.ChannelVerdict{}}}
	p, err := r.Published(ctx)
	if err != nil {
		return Status{}, err
	}
	packs := o.Packs
	if packs == nil {
		if packs, err = OpenOrEmpty(ctx, o.Store, p != nil, nil); err != nil {
			return Status{}, err
		}
		defer packs.Close()
	}
	if s.Store, err = packs.Stats(ctx); err != nil || p == nil {
		return s, err
	}
	if err := s.judge(ctx, r, p, o.Now()); err != nil {
		return Status{}, err
	}
	if err := r.CheckClock(p, o.Now()); err != nil {
		s.Clock = err.Error()
		if !o.IgnoreClock {
			s.err = errors.Join(s.err, err)
		}
	}
	if err := Complete(ctx, packs, s.Releases); err != nil {
		s.Damage = err.Error()
		s.err = errors.Join(s.err, Damaged(o.Store, s.Damage))
	}
	return s, ctx.Err()
}

// judge fills in what is published and what machines do with it.
func (s *Status) judge(ctx context.Context, r *repo.Repo, p *repo.Published, now time.Time) error {
	pointer, err := r.ReadPointer(ctx)
	if err != nil {
		return err
	}
	s.Pointer, s.Sequence, s.Expires = pointer.Folder.String(), pointer.Timestamp, pointer.Expires.UTC()
	if s.Verdict, err = r.Verdict(ctx, pointer.Files, now); err != nil {
		return err
	}
	s.Expired = slices.ContainsFunc(s.Files, func(f repo.FileDate) bool { return f.State == repo.StateExpired })
	if s.err = s.Verdict.Err(); s.err != nil {
		s.Refused = s.err.Error()
	}
	if r.KeyReplaced(p) {
		s.Refused = fmt.Sprintf("root version %d replaced the online key; run phase-publish serve, or add, with the new one: %s", r.Root.Version(), s.Refused)
		s.err = refusal.New(s.err, "%s", s.Refused)
	}
	releases, err := manifest.Published(ctx, pointer.Files, r.RootData)
	s.Releases = append(s.Releases, releases...)
	if err != nil && s.err == nil {
		s.Refused, s.err = err.Error(), err
	}
	s.Warning, err = warning(ctx, r, p, s.Verdict)
	return err
}

// warning lists what the operator must do before machines refuse a release.
func warning(ctx context.Context, r *repo.Repo, p *repo.Published, v repo.Verdict) (string, error) {
	var all []string
	targets, err := r.UnpublishedTargets(ctx, p)
	if err != nil {
		return "", err
	}
	if targets != "" {
		all = append(all, targets)
	}
	for _, f := range v.Files {
		if f.State == repo.StateEnding {
			all = append(all, f.String())
		}
	}
	return strings.Join(all, "; "), nil
}
