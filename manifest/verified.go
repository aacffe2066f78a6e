package manifest

import (
	"context"
	"errors"
	"time"
)

// Policy is what a machine knows before it asks anybody.
type Policy struct {
	Root    []byte // root.json, the trust anchor
	Channel string
	Arch    string
	State   *State    // nil remembers nothing
	Now     time.Time // the clock's time; the zero time means that there is no clock
	Floor   time.Time // the earliest that it can be, as the time of the image's build; zero for none
}

// Verified is a release that passed every check of Verify. Nothing else makes one.
type Verified struct {
	release   Release
	timestamp int64
	discovery Discovery
	roots     []int64
	now       time.Time
	lastGood  bool
	first     bool
	notes     []string
}

// Release is what the release says. The caller may change its copy.
func (v *Verified) Release() Release {
	r := v.release
	r.Artifacts = append([]Artifact(nil), r.Artifacts...)
	return r
}

// TimestampVersion is the TUF version of the timestamp: of two answers about the same
// repository under the same root the one with the higher version is newer.
func (v *Verified) TimestampVersion() int64 { return v.timestamp }

// Discovery is that of the newest root.
func (v *Verified) Discovery() Discovery { return v.discovery }

// RootVersion is the TUF version of the newest root.
func (v *Verified) RootVersion() int64 { return v.roots[len(v.roots)-1] }

// Time is the reference time of the check: the latest of the clock, the floor, the signing
// date of the verified release, and that of the timestamp, which counts at most one hour
// above clock and floor unless the release shows that both are more than a day behind.
func (v *Verified) Time() time.Time { return v.now }

// LastGood reports that expiry was not judged: see the function LastGood.
func (v *Verified) LastGood() bool { return v.lastGood }

// First reports that nothing was remembered of the repository: the first boot, no state, or
// one that was deleted. Then only the image's own root and date say what is too old.
func (v *Verified) First() bool { return v.first }

// Notes are for a report: remembered files that were damaged or no longer valid and
// were passed over, or that could not be written. None of them weakened the check.
func (v *Verified) Notes() []string { return append([]string(nil), v.notes...) }

// Verify asks a source for the newest release of a channel and judges the answer.
// In order: the root that the machine holds, the roots remembered, the source's newer
// roots, each signed by the one before and by itself; then timestamp, snapshot,
// targets and the delegated role, each against its signatures, its date, the file that
// names it and what was remembered (TUF specification, section 5); then the paths of
// the release against the delegation, and its meaning as Decode does. Only after all
// of it passed is the state written, at once and whole; when another program wrote it in the
// meantime, all is judged again by what that one has seen.
//
// Errors wrap ErrSignature, ErrExpired, ErrRollback, ErrMixAndMatch, ErrPath, ErrRepository
// or ErrMalformed; fs.ErrNotExist when the channel, or a file, is not there; or whatever
// the source says. They name the file, the version or date, and what to do.
func Verify(ctx context.Context, f Fetcher, p Policy) (*Verified, error) {
	for range maxTries {
		w, err := newWalk(f, p)
		if err != nil {
			return nil, err
		}
		v, err := w.verify(ctx)
		if !errors.Is(err, errMoved) {
			return v, err
		}
	}
	return nil, errMoved
}

// maxTries bounds how often a check is repeated because others write the same state.
const maxTries = 8

// LastGood judges what the state remembers, without any source and without expiry:
// every signature, version, hash and path is checked, dates are not. It is for a mode
// whose policy prefers the last good release to none when Verify says ErrExpired or
// no source answers. What it returns has been verified with its dates before.
func LastGood(ctx context.Context, p Policy) (*Verified, error) {
	w, err := newWalk(nil, p)
	if err != nil {
		return nil, err
	}
	w.source, w.ageless = w.memory, true
	v, err := w.verify(ctx)
	if absent(err) {
		return nil, refuse(err, "state: no release of channel %.40q for %.40q is remembered", p.Channel, p.Arch)
	}
	return v, err
}
