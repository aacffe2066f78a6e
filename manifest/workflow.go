package manifest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// maxRoots bounds the chain of roots that one check follows.
const maxRoots = 256

// A workflow is one run of TUF's client workflow (specification, section 5). The fields root,
// timestamp, snapshot and targets contain verified documents: first the ones from the state,
// then newer ones from the source.
type workflow struct {
	source    Fetcher
	policy    Policy
	state     *repositoryState
	root      *Root
	timestamp *Document
	snapshot  *Document
	targets   *Document
	manifest  *Document
	time      referenceTime
	expiries  []expiry
	accepted  []stateFile // verified files, which the state will keep
	roots     []int64     // versions of the roots from the trust anchor on
	first     bool        // the state has nothing of this repository
	notes     []string
}

func newWorkflow(f Fetcher, p Policy) (*workflow, error) {
	if p.Now.IsZero() && p.Floor.IsZero() {
		return nil, errors.New("policy: neither a clock nor a floor: nothing would ever expire; set Now or Floor")
	}
	root, err := ParseRoot(p.Root)
	if err != nil {
		return nil, err
	}
	w := &workflow{source: f, policy: p, state: p.State.of(root), root: root}
	w.roots = []int64{root.Version()}
	w.keep(FileName(roleRoot, root.Version()), p.Root)
	return w, nil
}

// verify runs the workflow for one release and writes the state.
func (w *workflow) verify(ctx context.Context) (*Verified, error) {
	if err := w.updateTopLevel(ctx); err != nil {
		return nil, err
	}
	release, err := w.release(ctx, w.policy.Channel, w.policy.Arch)
	if err != nil {
		return nil, err
	}
	w.time.advanceByRelease(release.SignedAt, fmt.Sprintf("release %.64q", release.Version))
	if err := w.checkExpiries(); err != nil {
		return nil, err
	}
	settings, err := w.machineSettings(ctx)
	if err != nil {
		return nil, err
	}
	machine := w.policy.Machine
	machine.Groups = settings.Groups
	chosen, unchosen := release.For(machine, w.choiceTime(release)) // the metadata are valid also without a release for this machine
	if note := w.time.futureTimestamp(); note != "" {
		w.note("%s", note)
	}
	if err := w.state.write(ctx, w.accepted); errors.Is(err, errStateChanged) {
		return nil, err
	} else if err != nil {
		w.note("the state was not written: %v", err)
	}
	if unchosen != nil {
		return nil, unchosen
	}
	return &Verified{
		release: chosen, newest: release, manifest: w.manifest, settings: settings, owners: w.targets.delegation(release.Channel + "-" + release.Arch), timestamp: w.timestamp.Version(), targets: w.targets.Version(), discovery: w.root.Discovery(),
		roots: w.roots, root: w.root, now: w.time.now, lastGood: w.time.unchecked, notes: w.notes, first: w.first,
	}, nil
}

// choiceTime is the reference time for the choice among the releases of a manifest. Without an expiry
// check there is none: the latest of clock, floor and the release's date of signing counts.
func (w *workflow) choiceTime(r Release) time.Time {
	if w.time.unchecked {
		return w.latestTime(r.SignedAt)
	}
	return w.time.now
}

// latestTime returns the latest of the reference time, the clock, the floor and a date of signing.
func (w *workflow) latestTime(signed time.Time) time.Time {
	now := w.time.now
	for _, t := range []time.Time{w.policy.Now, w.policy.Floor, signed} {
		if t.After(now) {
			now = t
		}
	}
	return now
}

// updateTopLevel updates the four top-level roles in the order of the specification.
func (w *workflow) updateTopLevel(ctx context.Context) error {
	w.time.start(w.policy.Now, w.policy.Floor)
	for _, step := range []func(context.Context) error{w.updateRoots, w.updateTimestamp, w.updateSnapshot, w.updateTargets} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return w.checkExpiries()
}

// updateRoots follows the roots after the trust anchor, from the state first: a source that
// withholds a root cannot make a revoked key valid again.
func (w *workflow) updateRoots(ctx context.Context) error {
	for range maxRoots {
		name := FileName(roleRoot, w.root.Version()+1)
		next, err := w.nextRoot(ctx, name)
		if absent(err) {
			return w.checkExpiry(versioned(roleRoot, w.root.Version()), w.root.Expires(), newRoot)
		}
		if err != nil {
			return err
		}
		w.root = next
		w.roots = append(w.roots, next.Version())
		w.keep(name, next.doc.data)
	}
	return refuse(ErrRollback, "root.json version %d: %d newer roots follow, which is too many; take a newer root.json", w.roots[0], maxRoots)
}

// nextRoot reads one root: from the state if it has a valid one, otherwise from the source.
func (w *workflow) nextRoot(ctx context.Context, name string) (*Root, error) {
	data, err := w.state.read(name, KindRoot)
	if err == nil {
		next, refusal := w.root.Next(data)
		if refusal == nil {
			return next, nil
		}
		err = refusal
	}
	w.noteUnusable(name, err)
	if w.source == Fetcher(w.state) {
		return nil, fs.ErrNotExist // the state was read above
	}
	if data, err = fetch(ctx, w.source, name, KindRoot); err != nil {
		return nil, err
	}
	return w.root.Next(data)
}

// noteUnusable notes that a file of the state was not used because of err. A missing file is
// normal, and an ErrState ends the check elsewhere: both are not noted.
func (w *workflow) noteUnusable(name string, err error) {
	if err != nil && !absent(err) && stateError(err) == nil {
		w.note("the state's %s was ignored: %v", name, err)
	}
}

func (w *workflow) note(format string, args ...any) {
	w.notes = append(w.notes, fmt.Sprintf(format, args...))
}

// keep adds a verified file to those that the state will keep.
func (w *workflow) keep(name string, data []byte) {
	w.accepted = append(w.accepted, stateFile{name, data})
}

// An expiry is the expiry date of a file that was accepted.
type expiry struct {
	name   string
	at     time.Time
	remedy string
}

// checkExpiry checks an expiry date now. checkExpiries checks it again, at the final reference
// time.
func (w *workflow) checkExpiry(name string, at time.Time, remedy string) error {
	w.expiries = append(w.expiries, expiry{name, at, remedy})
	return w.time.check(name, at, remedy)
}

// checkExpiries checks the expiry date of every accepted file at the final reference time. It
// fails if the state could not be read.
func (w *workflow) checkExpiries() error {
	if w.state.failed != nil {
		return w.state.failed
	}
	for _, e := range w.expiries {
		if err := w.time.check(e.name, e.at, e.remedy); err != nil {
			return err
		}
	}
	return nil
}

// versioned names a file and its version for a message.
func versioned(role string, version int64) string {
	return fmt.Sprintf("%s.json version %d", role, version)
}
