package publisher

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/manifest"
)

// States of a metadata file.
const (
	StateGood    = "good"
	StateEnding  = "ends soon" // less than a quarter of its life is left
	StateExpired = "expired"
)

// A Verdict says what machines that trust the newest root of a repository do with its
// metadata at one moment. It comes from manifest.Verify, the code that runs on the machines.
// status, export, /status, /healthz, the metrics and the log take their answers from it.
type Verdict struct {
	Until    time.Time        `json:"accepted_until"` // the first date at which machines refuse a release
	Files    []FileDate       `json:"files"`
	Channels []ChannelVerdict `json:"channels"` // that have a release
}

// A FileDate is a metadata file whose expiry machines check.
type FileDate struct {
	Name    string    `json:"name"` // root.json, targets.json, CHANNEL-ARCH.json, snapshot.json, timestamp.json
	Version int64     `json:"version"`
	Since   time.Time `json:"since"` // when it was signed; for files that do not say so, the date of the file
	Expires time.Time `json:"expires"`
	State   string    `json:"state"` // StateGood, StateEnding or StateExpired

	remedy string
}

// A ChannelVerdict is that of one channel and architecture.
type ChannelVerdict struct {
	Channel  string `json:"channel"`
	Arch     string `json:"arch"`
	Accepted bool   `json:"accepted"`
	Refused  string `json:"refused"` // why, "" when it is accepted

	err error
}

// Err is nil when machines accept every channel. It wraps the reasons of manifest, and names
// the channels that are refused, the file that is the cause, and what to do.
func (v Verdict) Err() error {
	var reasons []error
	refused := map[string][]string{}
	for _, c := range v.Channels {
		if c.Accepted {
			continue
		}
		if refused[c.Refused] == nil {
			reasons = append(reasons, c.err)
		}
		refused[c.Refused] = append(refused[c.Refused], c.Channel+"/"+c.Arch)
	}
	var all error
	for _, err := range reasons {
		who := refused[err.Error()]
		what := strings.Join(who, ", ")
		if len(who) == len(v.Channels) {
			what = "every release"
		}
		all = errors.Join(all, fmt.Errorf("machines refuse %s: %w", what, err))
	}
	return all
}

// verdict runs the machines' own check over the metadata files that are served.
func (r *repo) verdict(ctx context.Context, served filesFetcher, now time.Time) (Verdict, error) {
	var v Verdict
	delegations, err := v.readFiles(r, served, now)
	if err != nil {
		return v, fmt.Errorf("repository %s: %w", r.dir, err)
	}
	for _, d := range delegations {
		_, err := manifest.Verify(ctx, served, manifest.Policy{Root: r.rootData, Channel: d.Channel, Arch: d.Arch, Now: now})
		if ctx.Err() != nil {
			return v, ctx.Err()
		}
		c := ChannelVerdict{Channel: d.Channel, Arch: d.Arch, Accepted: err == nil}
		if err != nil {
			c.err = v.forOperator(err, d)
			c.Refused = c.err.Error()
		}
		v.Channels = append(v.Channels, c)
	}
	return v, nil
}

// readFiles lists the files and their dates, and returns the channels that have a release.
func (v *Verdict) readFiles(r *repo, served filesFetcher, now time.Time) ([]manifest.Delegation, error) {
	timestamp, err := manifest.Parse[metadata.TimestampType](manifest.KindTimestamp, served[manifest.FileName(roleTimestamp, 0)])
	if err != nil {
		return nil, err
	}
	at := timestamp.Signed.Meta["snapshot.json"].Version
	snapshot, err := manifest.Parse[metadata.SnapshotType](manifest.KindSnapshot, served[manifest.FileName(roleSnapshot, at)])
	if err != nil {
		return nil, err
	}
	number := snapshot.Signed.Meta["targets.json"].Version
	data := served[manifest.FileName(roleTargets, number)]
	targets, err := manifest.Parse[metadata.TargetsType](manifest.KindTargets, data)
	if err != nil {
		return nil, err
	}
	v.date(r, roleRoot, r.root.Version(), time.Time{}, r.root.Expires(), now, "the root keys must sign a new root: phase-sign rotate")
	v.date(r, roleTargets, number, time.Time{}, targets.Signed.Expires, now, "the root keys must sign it again: phase-sign rotate --targets-expires")
	v.date(r, roleSnapshot, at, time.Time{}, snapshot.Signed.Expires, now, signsAgain)
	v.date(r, roleTimestamp, timestamp.Signed.Version, manifest.SignedAt(timestamp), timestamp.Signed.Expires, now, signsAgain)
	all, err := manifest.ReadDelegations(data)
	return slices.DeleteFunc(all, func(d manifest.Delegation) bool {
		return err == nil && !v.readRole(r, served, snapshot, d, now)
	}), err
}

const signsAgain = "phase-publish serve, or add, signs it again"

// readRole adds the manifest of a channel, and reports whether it has one.
func (v *Verdict) readRole(r *repo, served filesFetcher, snapshot *metadata.Metadata[metadata.SnapshotType], d manifest.Delegation, now time.Time) bool {
	name, err := manifest.RoleName(d.Channel, d.Arch)
	meta := snapshot.Signed.Meta[name+".json"]
	if err != nil || meta == nil {
		return false
	}
	role, err := manifest.Parse[metadata.TargetsType](manifest.KindRole, served[manifest.FileName(name, meta.Version)])
	if err != nil {
		return true // Verify says what is wrong with it
	}
	var since time.Time
	if release, err := manifest.Decode(role, d.Channel, d.Arch); err == nil {
		since = release.SignedAt
	}
	v.date(r, name, meta.Version, since, role.Signed.Expires, now, "the release keys must sign the release again: phase-sign release, then phase-publish add")
	return true
}

// date adds a file.
func (v *Verdict) date(r *repo, role string, version int64, since, expires, now time.Time, remedy string) {
	if info, err := os.Stat(filepath.Join(r.dir, manifest.FileName(role, version))); since.IsZero() && err == nil {
		since = info.ModTime()
	}
	f := FileDate{Name: role + ".json", Version: version, Since: since.UTC().Truncate(time.Second), Expires: expires.UTC(), State: StateGood, remedy: remedy}
	switch {
	case !now.Before(f.Expires):
		f.State = StateExpired
	case !now.Before(f.ending()):
		f.State = StateEnding
	}
	if v.Until.IsZero() || f.Expires.Before(v.Until) {
		v.Until = f.Expires
	}
	v.Files = append(v.Files, f)
}

// ending is when a quarter of the life is left.
func (f FileDate) ending() time.Time {
	return f.Expires.Add(-max(0, f.Expires.Sub(f.Since)) / 4)
}

func (f FileDate) String() string {
	words := "expires on"
	if f.State == StateExpired {
		words = "expired on"
	}
	return fmt.Sprintf("%s version %d %s %s; %s", f.Name, f.Version, words, f.Expires.Format(time.RFC3339), f.remedy)
}

// forOperator words a refusal for the person who runs the publisher: the machines' own words
// are for the person who stands before a machine.
func (v *Verdict) forOperator(err error, d manifest.Delegation) error {
	name, _ := manifest.RoleName(d.Channel, d.Arch)
	for _, f := range v.Files {
		mine := f.Name == name+".json" || !strings.Contains(f.Name, "-")
		if errors.Is(err, manifest.ErrExpired) && mine && f.State == StateExpired {
			return refusedFor{f.String(), err}
		}
	}
	return err
}

// refusedFor is a refusal in other words.
type refusedFor struct {
	words string
	err   error
}

func (e refusedFor) Error() string { return e.words }
func (e refusedFor) Unwrap() error { return e.err }

// next is the first moment after now at which the verdict changes; the zero time for never.
func (v Verdict) next(now time.Time) (first time.Time) {
	for _, f := range v.Files {
		for _, t := range []time.Time{f.ending(), f.Expires} {
			if t.After(now) && (first.IsZero() || t.Before(first)) {
				first = t
			}
		}
	}
	return first
}

// notKey reports that the newest root does not list the key that signs timestamps here.
func (r *repo) notKey(o Online) error {
	if r.checkOnline(o.Public) == nil {
		return nil
	}
	return fmt.Errorf("root version %d replaced the online key (%w); start phase-publish serve again with the new --online-key", r.root.Version(), manifest.ErrSignature)
}

// writable reports why signatures cannot be renewed in the repository.
func (r *repo) writable() error {
	f, err := os.OpenFile(filepath.Join(r.dir, ".lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		err = accessible(r.dir)
	}
	if err == nil {
		return nil
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return fmt.Errorf("repository %s: not writable for this user (%w): the timestamp cannot be signed again and will expire; make the folder and its files writable", r.dir, err)
}
