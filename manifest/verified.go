package manifest

import (
	"context"
	"errors"
	"slices"
	"time"
)

// Policy is what a machine knows before it contacts a source.
type Policy struct {
	Root    []byte // root.json, the trust anchor
	Channel string
	Arch    string
	State   *State    // nil keeps no state
	Now     time.Time // the clock's time; the zero time means that there is no clock
	Floor   time.Time // the earliest possible time, such as the build time of the image; zero for none
	Machine Machine   // decides which release of the manifest is taken, if its roll-out has begun, and which settings

	// StaleSettings uses settings whose role is expired. Without it only their groups count then.
	StaleSettings bool
}

// Verified is a release that passed every check of Verify. Only Verify, LastGood and Fallback make one.
type Verified struct {
	release   Release // the one for the machine
	newest    Release // the whole manifest
	manifest  *Document
	settings  MachineSettings
	owners    *delegation // of its role
	timestamp int64
	targets   int64
	discovery Discovery
	roots     []int64
	root      *Root     // the newest
	now       time.Time // the reference time of the check
	lastGood  bool
	fallback  bool // release is the result of Fallback
	first     bool
	notes     []string
}

// Release returns a copy of the release for the machine, without earlier ones.
func (v *Verified) Release() Release { return v.release.clone() }

// TargetPath returns the path of an artifact of Release in a repository with consistent snapshots,
// DIR/SHA256.NAME.
func (v *Verified) TargetPath(a Artifact) string {
	r, role := v.release, a.Role
	if r.ContentNumber() != v.newest.ContentNumber() {
		role = earlierPath(r.ContentNumber(), role)
	}
	return Target{Path: targetPath(r.Channel, r.Arch, role), SHA256: a.SHA256}.HashedPath()
}

// Newest returns a copy of the newest release of the channel with its earlier ones. It may not be for
// this machine.
func (v *Verified) Newest() Release { return v.newest.clone() }

// Manifest returns the file of the manifest that was verified, for Fallback. The caller must not change it.
func (v *Verified) Manifest() []byte { return v.manifest.data }

// Settings returns the settings of the machine. The caller must not change them.
func (v *Verified) Settings() MachineSettings { return v.settings }

// clone copies a release with all that it refers to.
func (r Release) clone() Release {
	r.Artifacts = append([]Artifact(nil), r.Artifacts...)
	r.Submitters = cloneSubmitters(r.Submitters)
	r.Rollout = r.Rollout.clone()
	r.Earlier = slices.Clone(r.Earlier)
	for i := range r.Earlier {
		r.Earlier[i] = r.Earlier[i].clone()
	}
	return r
}

// TimestampVersion is the TUF version of the timestamp. Of two results for one repository and
// one root, the one with the higher version is newer.
func (v *Verified) TimestampVersion() int64 { return v.timestamp }

// TargetsVersion is the TUF version of the top-level targets.json.
func (v *Verified) TargetsVersion() int64 { return v.targets }

// Discovery is the discovery field of the newest root.
func (v *Verified) Discovery() Discovery { return v.discovery }

// RootVersion is the TUF version of the newest root.
func (v *Verified) RootVersion() int64 { return v.roots[len(v.roots)-1] }

// Root is the newest root of the chain that begins with the root of the policy.
func (v *Verified) Root() *Root { return v.root }

// LastGood reports that no expiry was checked: see the function LastGood.
func (v *Verified) LastGood() bool { return v.lastGood }

// Chosen reports that Release is what the newest metadata choose for this machine: neither a fallback nor the last good one.
func (v *Verified) Chosen() bool { return !v.lastGood && !v.fallback }

// First reports that the state had nothing of the repository: this is the first boot, there is
// no state, or it was deleted. Then only the root and the date of the image limit a rollback.
func (v *Verified) First() bool { return v.first }

// Notes are for a report: files of the state that were ignored because they are damaged or no
// longer valid, or a state that could not be written. No note means a weaker check.
func (v *Verified) Notes() []string { return append([]string(nil), v.notes...) }

// Verify fetches the newest release of a channel from a source and checks it. It checks in this
// order (TUF specification, section 5): the root in the policy; the roots in the state; newer
// roots of the source, each signed by the one before and by itself; then timestamp, snapshot,
// targets and the delegated role, each against its signatures, its expiry date, the file that
// names it and the state; then the paths of the release against the delegation; then its content,
// as Open does. It then checks the settings of machines, if the repository has them, and chooses the release for
// p.Machine and its groups. When all passed, it replaces the state as a whole. If another program has
// changed the state in the meantime, it checks again against the changed state.
//
// Errors wrap ErrSignature, ErrExpired, ErrRollback, ErrMixAndMatch, ErrPath, ErrRepository or
// ErrMalformed; fs.ErrNotExist when the channel or a file is missing; ErrState; or an error of
// the source. They name the file, the version or date, and the remedy.
func Verify(ctx context.Context, f Fetcher, p Policy) (*Verified, error) {
	for range maxTries {
		w, err := newWorkflow(f, p)
		if err != nil {
			return nil, err
		}
		v, err := w.verify(ctx)
		if !errors.Is(err, errStateChanged) {
			return v, err
		}
	}
	return nil, errStateChanged
}

// maxTries bounds how often a check is repeated because another program changed the state.
const maxTries = 8

// LastGood checks the release in the state, without a source and without the expiry check: every
// signature, version, hash and path is checked. It is for a mode whose policy prefers the last
// good release to none, after ErrExpired or when no source answers. An earlier Verify has
// accepted the release, with its expiry dates.
func LastGood(ctx context.Context, p Policy) (*Verified, error) {
	w, err := newWorkflow(nil, p)
	if err != nil {
		return nil, err
	}
	w.source, w.time.unchecked = w.state, true
	v, err := w.verify(ctx)
	if absent(err) {
		return nil, refuse(err, "state: no release of channel %.40q for %.40q is remembered", p.Channel, p.Arch)
	}
	return v, err
}
