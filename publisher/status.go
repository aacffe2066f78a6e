package publisher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
)

// A Status is what a store and a repository hold, and what machines do with it.
type Status struct {
	Store    cas.Stats `json:"store"`
	Root     int64     `json:"root_version"`
	Head     string    `json:"head"` // CID of the metadata folder, "" when nothing is published
	Sequence int64     `json:"timestamp_version"`
	Expires  time.Time `json:"timestamp_expires"` // of timestamp or snapshot, the earlier
	Expired  bool      `json:"expired"`           // any file of Verdict has expired
	Verdict
	Releases []manifest.Release `json:"releases"` // what is published, whether or not machines accept it
	Refused  string             `json:"refused"`  // what machines refuse and why, "" when they accept every release
	Clock    string             `json:"clock"`    // how the clock contradicts what is published, "" when it does not
	Warning  string             `json:"warning"`  // what is not published that should be, or ends soon; "" when nothing
	Damage   string             `json:"damage"`   // what of the releases the store does not list, "" when nothing

	err error
}

// Err is nil when machines accept every release, the clock agrees with what is published and
// the store is whole. It wraps the reasons of manifest, or cas.ErrCorrupt.
func (s Status) Err() error { return s.err }

// A StatusOptions names a store and a repository.
type StatusOptions struct {
	Store, Repo string
	Now         func() time.Time // nil: time.Now
	IgnoreClock bool             // a clock that contradicts what is published is no error
}

// ReadStatus reads a store and a repository, and judges what is published as machines do. What
// they refuse, or a store that lacks blocks, is a fact that Status.Err reports, not an error of
// ReadStatus. Blocks are not hashed: see Fsck.
func ReadStatus(ctx context.Context, o StatusOptions) (Status, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	r, err := openRepo(ctx, o.Repo)
	if err != nil {
		return Status{}, err
	}
	s := Status{Root: r.root.Version(), Releases: []manifest.Release{}, Verdict: Verdict{Files: []FileDate{}, Channels: []ChannelVerdict{}}}
	p, err := r.published(ctx)
	if err != nil {
		return Status{}, err
	}
	packs, err := openOrEmpty(o.Store, p != nil, nil)
	if err != nil {
		return Status{}, err
	}
	defer packs.Close()
	if s.Store, err = packs.Stats(ctx); err != nil || p == nil {
		return s, err
	}
	if err := s.judge(ctx, r, p, o.Now()); err != nil {
		return Status{}, err
	}
	if err := checkClock(p, o.Now()); err != nil && !r.replaced(p) {
		s.Clock = err.Error()
		if !o.IgnoreClock {
			s.err = errors.Join(s.err, err)
		}
	}
	if err := whole(ctx, packs, s.Releases); err != nil {
		s.Damage = err.Error()
		s.err = errors.Join(s.err, Damaged(o.Store, s.Damage))
	}
	return s, ctx.Err()
}

// judge fills in what is published and what machines do with it.
func (s *Status) judge(ctx context.Context, r *repo, p *published, now time.Time) error {
	head, err := readHead(ctx, r.dir)
	if err != nil {
		return err
	}
	files, err := head.read(ctx)
	if err != nil {
		return err
	}
	s.Head, s.Sequence, s.Expires = head.Folder.String(), head.Timestamp, head.Expires.UTC()
	if s.Verdict, err = r.verdict(ctx, files, now); err != nil {
		return err
	}
	s.Expired = slices.ContainsFunc(s.Files, func(f FileDate) bool { return f.State == StateExpired })
	if s.err = s.Verdict.Err(); s.err != nil {
		s.Refused = s.err.Error()
	}
	if r.replaced(p) {
		s.Refused = fmt.Sprintf("root version %d replaced the online key; run phase-publish serve, or add, with the new one: %s", r.root.Version(), s.Refused)
		s.err = refusedFor{s.Refused, s.err}
	}
	releases, err := manifest.Published(ctx, filesFetcher(files), r.rootData)
	s.Releases = append(s.Releases, releases...)
	if err != nil && s.err == nil {
		s.Refused, s.err = err.Error(), err
	}
	s.Warning, err = r.warning(ctx, p, s.Verdict)
	return err
}

// warning says what will need somebody.
func (r *repo) warning(ctx context.Context, p *published, v Verdict) (string, error) {
	var all []string
	if !r.replaced(p) {
		late, err := r.unpublished(ctx, p)
		if err != nil {
			return "", err
		}
		if late != "" {
			all = append(all, late)
		}
	}
	for _, f := range v.Files {
		if f.State == StateEnding {
			all = append(all, f.String())
		}
	}
	return strings.Join(all, "; "), nil
}
