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

// A walk is one run of TUF's client workflow. A document stands in its field once it has
// been verified; what the state remembers of it stands there first.
type walk struct {
	source    Fetcher
	policy    Policy
	memory    *memory
	now       time.Time // the reference time; zero judges no dates
	says      string    // what it is from, when not from the clock
	clock     time.Time // the machine's own: the later of Policy's Now and Floor
	stamped   time.Time // the latest date of signing of a timestamp
	stampedBy string
	root      *Root
	timestamp *document
	snapshot  *document
	targets   *document
	ageless   bool        // dates are not judged
	keep      []stateFile // what passed, in the order in which it is remembered
	roots     []int64
	first     bool // the state holds nothing of this repository
	dates     []dated
	notes     []string
}

// dated is a file that counts only until its date.
type dated struct {
	name    string
	expires time.Time
	remedy  string
}

func newWalk(f Fetcher, p Policy) (*walk, error) {
	if p.Now.IsZero() && p.Floor.IsZero() {
		return nil, errors.New("policy: neither a clock nor a floor: nothing would ever expire; set Now or Floor")
	}
	root, err := ParseRoot(p.Root)
	if err != nil {
		return nil, err
	}
	w := &walk{source: f, policy: p, memory: p.State.repository(root), root: root}
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
	w.raiseBySigner(release.SignedAt, fmt.Sprintf("release %.64q", release.Version))
	if err := w.fresh(); err != nil {
		return nil, err
	}
	w.noteAhead()
	if err := w.memory.write(w.keep); errors.Is(err, errMoved) {
		return nil, err
	} else if err != nil {
		w.note("the state was not written: %v", err)
	}
	return &Verified{
		release: release, timestamp: w.timestamp.version(), discovery: w.root.Discovery(),
		roots: w.roots, now: w.now, lastGood: w.ageless, notes: w.notes, first: w.first,
	}, nil
}

// top walks the four top-level roles.
func (w *walk) top(ctx context.Context) error {
	w.raise(w.policy.Now, "")
	w.raise(w.policy.Floor, "the image")
	w.clock = w.now
	for _, step := range []func(context.Context) error{w.rootChain, w.loadTimestamp, w.loadSnapshot, w.loadTargets} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return w.fresh()
}

// rootChain follows the roots after the trust anchor, remembered ones first: a source
// that withholds a root cannot bring a revoked key back.
func (w *walk) rootChain(ctx context.Context) error {
	for range maxRoots {
		name := FileName(roleRoot, w.root.Version()+1)
		next, err := w.nextRoot(ctx, name)
		if absent(err) {
			return w.date(versioned(roleRoot, w.root.Version()), w.root.Expires(), newRoot)
		}
		if err != nil {
			return err
		}
		w.root = next
		w.roots = append(w.roots, next.Version())
		w.remember(name, next.doc.data)
	}
	return refuse(ErrRollback, "root.json version %d: %d newer roots follow, which is too many; take a newer root.json", w.roots[0], maxRoots)
}

// nextRoot loads one root, from the state when it has a good one.
func (w *walk) nextRoot(ctx context.Context, name string) (*Root, error) {
	data, err := w.memory.read(name, KindRoot)
	if err == nil {
		next, refusal := w.root.Next(data)
		if refusal == nil {
			return next, nil
		}
		err = refusal
	}
	w.passOver(name, err)
	if w.source == Fetcher(w.memory) {
		return nil, fs.ErrNotExist // it was asked already
	}
	if data, err = fetch(ctx, w.source, name, KindRoot); err != nil {
		return nil, err
	}
	return w.root.Next(data)
}

// passOver notes that a remembered file was of no use, unless it is just not there.
func (w *walk) passOver(name string, err error) {
	if err != nil && !absent(err) && unread(err) == nil {
		w.note("the state's %s was passed over: %v", name, err)
	}
}

// date judges a file's date now, and once more when the reference time is final.
func (w *walk) date(name string, expires time.Time, remedy string) error {
	w.dates = append(w.dates, dated{name, expires, remedy})
	return checkDate(w.now, w.says, name, expires, remedy)
}

// fresh judges the dates of all that was loaded against the final reference time.
func (w *walk) fresh() error {
	if w.memory.failed != nil {
		return w.memory.failed // what was remembered could not be read
	}
	for _, d := range w.dates {
		if err := checkDate(w.now, w.says, d.name, d.expires, d.remedy); err != nil {
			return err
		}
	}
	return nil
}

// checkDate refuses a file whose date has come: from that second on it is expired, as TUF
// has it. The zero time judges nothing; says is where another time than the clock's is from.
func checkDate(now time.Time, says, name string, expires time.Time, remedy string) error {
	if now.IsZero() || now.Before(expires) {
		return nil
	}
	if says != "" {
		says = " (says " + says + ")"
	}
	return refuse(ErrExpired, "%s: expired on %s, and it is %s%s; %s, or set the clock right",
		name, stamp(expires), stamp(now), says, remedy)
}

// raise moves the reference time forward, never back.
func (w *walk) raise(t time.Time, says string) {
	if !w.ageless && t.After(w.now) {
		w.now, w.says = t.UTC(), says
	}
}

const (
	// maxStep is how far the date of a timestamp moves the reference time above the machine's
	// clock. It is less than 12 hours, the life that a timestamp of the default expiry has left
	// when it is renewed: a publisher whose clock was ahead once does not make machines refuse
	// what it signs afterwards.
	maxStep = time.Hour
	// maxZone is more than a clock can be behind that shows the local time of another zone.
	maxZone = 24 * time.Hour
)

// raiseByTimestamp moves the reference time to the date of a timestamp, at most maxStep
// above the clock: the online key signs that date, and it may be stolen or its clock wrong.
func (w *walk) raiseByTimestamp(t time.Time, says string) {
	if t.After(w.stamped) {
		w.stamped, w.stampedBy = t, says
	}
	if limit := w.clock.Add(maxStep); t.After(limit) {
		t = limit
	}
	w.raise(t, says)
}

// raiseBySigner moves the reference time to a date that release keys have signed. If that
// date shows that the clock is behind by more than a time zone, the machine has no clock, and
// the dates of timestamps count in full as well.
func (w *walk) raiseBySigner(t time.Time, says string) {
	w.raise(t, says)
	if t.After(w.clock.Add(maxZone)) {
		w.raise(w.stamped, w.stampedBy)
	}
}

// noteAhead reports a timestamp whose date was not taken in full.
func (w *walk) noteAhead() {
	if w.stamped.After(w.now) && !w.ageless {
		w.note("%s: signed at %s, and it is %s: the publisher's clock or this one is wrong; the date counts as %s after this clock",
			w.stampedBy, stamp(w.stamped), stamp(w.clock), maxStep)
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
