package manifest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// maxRoots bounds the chain of roots that one check follows.
const maxRoots = 256

// A walk is one run of TUF's client workflow.
type walk struct {
	source  Fetcher
	policy  Policy
	memory  *memory
	trusted *trustedmetadata.TrustedMetadata
	ageless bool        // dates are not judged
	keep    []stateFile // what passed, in the order in which it is remembered
	roots   []int64
	notes   []string
}

func newWalk(f Fetcher, p Policy) (*walk, error) {
	if p.Now.IsZero() && p.Floor.IsZero() {
		return nil, errors.New("policy: neither a clock nor a floor: nothing would ever expire; set Now or Floor")
	}
	root, err := ParseRoot(p.Root)
	if err != nil {
		return nil, err
	}
	trusted, err := trustedmetadata.New(p.Root)
	if err != nil {
		return nil, inFile("root.json", refuse(ErrSignature, "%v", err))
	}
	w := &walk{source: f, policy: p, memory: p.State.repository(root), trusted: trusted}
	w.roots = []int64{root.Version()}
	w.remember(FileName(roleRoot, root.Version()), p.Root)
	return w, nil
}

// verify is the whole of Verify after the trust anchor.
func (w *walk) verify(ctx context.Context) (*Verified, error) {
	if err := w.top(ctx); err != nil {
		return nil, err
	}
	release, err := w.release(ctx, w.policy.Channel, w.policy.Arch)
	if err != nil {
		return nil, err
	}
	w.raise(release.SignedAt)
	if err := w.fresh(); err != nil {
		return nil, err
	}
	discovery, err := readDiscovery(w.trusted.Root.Signed.UnrecognizedFields[extension])
	if err != nil {
		return nil, err
	}
	if err := w.memory.write(w.keep); err != nil {
		w.note("the state was not written: %v", err)
	}
	return &Verified{
		release: release, timestamp: w.trusted.Timestamp.Signed.Version, discovery: discovery,
		roots: w.roots, now: w.trusted.RefTime, lastGood: w.ageless, notes: w.notes,
	}, nil
}

// top walks the four top-level roles.
func (w *walk) top(ctx context.Context) error {
	w.trusted.RefTime = time.Time{}
	w.raise(w.policy.Now)
	w.raise(w.policy.Floor)
	if err := w.rootChain(ctx); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{w.timestamp, w.snapshot, w.targets} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// rootChain follows the roots after the trust anchor, remembered ones first: a source
// that withholds a root cannot bring a revoked key back.
func (w *walk) rootChain(ctx context.Context) error {
	for range maxRoots {
		version := w.trusted.Root.Signed.Version + 1
		name := FileName(roleRoot, version)
		data, err := w.nextRoot(ctx, name)
		if absent(err) {
			return nil
		}
		if err != nil {
			return err
		}
		w.roots = append(w.roots, version)
		w.remember(name, data)
	}
	return refuse(ErrRollback, "root.json version %d: %d newer roots follow and more; take a newer root.json", w.roots[0], maxRoots)
}

// nextRoot loads one root, from the state when it has a good one.
func (w *walk) nextRoot(ctx context.Context, name string) ([]byte, error) {
	if data, err := w.memory.read(name, KindRoot); err == nil {
		if err = w.updateRoot(name, data); err == nil {
			return data, nil
		}
		w.note("the state's copy was passed over: %v", err)
	} else if !absent(err) {
		w.note("the state's %s was passed over: %v", name, err)
	}
	if w.source == Fetcher(w.memory) {
		return nil, fs.ErrNotExist // it was asked already
	}
	data, err := fetch(ctx, w.source, name, KindRoot)
	if err != nil {
		return nil, err
	}
	return data, w.updateRoot(name, data)
}

// updateRoot lets go-tuf judge the next root, and words a refusal.
func (w *walk) updateRoot(name string, data []byte) error {
	if err := Lint(KindRoot, data); err != nil {
		return inFile(name, err)
	}
	_, cause := w.trusted.UpdateRoot(data)
	if cause == nil {
		return nil
	}
	next, err := Parse[metadata.RootType](KindRoot, data)
	if err == nil {
		err = follows(w.trusted.Root, name, next)
	}
	if err != nil {
		return err
	}
	return tufError(name, cause)
}

// fresh judges the dates of all that was loaded against the final reference time.
func (w *walk) fresh() error {
	t := w.trusted
	dates := []struct {
		name    string
		expires time.Time
		remedy  string
	}{
		{versioned(roleRoot, t.Root.Signed.Version), t.Root.Signed.Expires, newRoot},
		{versioned(roleTimestamp, t.Timestamp.Signed.Version), t.Timestamp.Signed.Expires, askNewer},
		{versioned(roleSnapshot, t.Snapshot.Signed.Version), t.Snapshot.Signed.Expires, renewSnapshot},
		{versioned(roleTargets, t.Targets[roleTargets].Signed.Version), t.Targets[roleTargets].Signed.Expires, renewTargets},
	}
	for _, d := range dates {
		if err := w.expired(d.name, d.expires, d.remedy); err != nil {
			return err
		}
	}
	for name, role := range t.Targets {
		if err := w.expired(versioned(name, role.Signed.Version), role.Signed.Expires, releaseAgain); err != nil {
			return err
		}
	}
	return nil
}

// expired is the refusal of a file whose date has passed.
func (w *walk) expired(name string, expires time.Time, remedy string) error {
	return checkDate(w.trusted.RefTime, name, expires, remedy)
}

func checkDate(now time.Time, name string, expires time.Time, remedy string) error {
	if !now.After(expires) {
		return nil
	}
	return refuse(ErrExpired, "%s: expired on %s, and it is %s; %s, or set the clock right",
		name, stamp(expires), stamp(now), remedy)
}

// raise moves the reference time forward, never back.
func (w *walk) raise(t time.Time) {
	if !w.ageless && t.After(w.trusted.RefTime) {
		w.trusted.RefTime = t.UTC()
	}
}

func (w *walk) note(format string, args ...any) {
	w.notes = append(w.notes, fmt.Sprintf(format, args...))
}

// remember puts a file on the list of what the state keeps if all passes.
func (w *walk) remember(name string, data []byte) {
	w.keep = append(w.keep, stateFile{name, data})
}

// versioned names a file and its version for a message.
func versioned(role string, version int64) string {
	return fmt.Sprintf("%s.json version %d", role, version)
}

// tufError maps an error of go-tuf to ours. The walk words the refusals that it can
// foresee itself; this is for the rest, so that none is lost.
func tufError(name string, err error) error {
	var (
		expired  *metadata.ErrExpiredMetadata
		mismatch *metadata.ErrLengthOrHashMismatch
		version  *metadata.ErrBadVersionNumber
		unsigned *metadata.ErrUnsignedMetadata
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &expired):
		return refuse(ErrExpired, "%s: %v; ask another source", name, err)
	case errors.As(err, &mismatch):
		return refuse(ErrMixAndMatch, "%s: %v; ask another source", name, err)
	case errors.As(err, &version):
		return refuse(ErrRollback, "%s: %v; ask another source", name, err)
	case errors.As(err, &unsigned):
		return refuse(ErrSignature, "%s: %v; is this the right root.json?", name, err)
	default:
		return refuse(ErrUntrusted, "%s: %v; ask another source", name, err)
	}
}
