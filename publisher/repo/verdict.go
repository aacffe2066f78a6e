package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/internal/refusal"
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
// status, export, /status, /healthz, the metrics and the log report it.
type Verdict struct {
	Until    time.Time        `json:"accepted_until"` // the first date at which machines refuse a release
	Files    []FileDate       `json:"files"`
	Channels []ChannelVerdict `json:"channels"` // that have a release
}

// A FileDate is a metadata file whose expiry machines check.
type FileDate struct {
	Name    string    `json:"name"` // root.json, targets.json, CHANNEL-ARCH.json, snapshot.json, timestamp.json
	Version int64     `json:"version"`
	Since   time.Time `json:"since"` // when it was signed; the date of the file where it has no such field
	Expires time.Time `json:"expires"`
	State   string    `json:"state"` // StateGood, StateEnding or StateExpired

	remedy string
}

// A ChannelVerdict is the verdict on one channel and architecture.
type ChannelVerdict struct {
	Channel  string `json:"channel"`
	Arch     string `json:"arch"`
	Accepted bool   `json:"accepted"`
	Refused  string `json:"refused"` // why, "" when it is accepted

	err error
}

// Err is nil when machines accept every channel. It wraps the errors of manifest, and names
// the refused channels, the file that is the cause, and the remedy.
func (v Verdict) Err() error {
	var reasons []error
	refused := map[string][]string{} // channels by reason
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
		channels := refused[err.Error()]
		what := strings.Join(channels, ", ")
		if len(channels) == len(v.Channels) {
			what = "every release"
		}
		all = errors.Join(all, fmt.Errorf("machines refuse %s: %w", what, err))
	}
	return all
}

// Verdict runs the machines' own check over metadata files.
func (r *Repo) Verdict(ctx context.Context, files Files, now time.Time) (Verdict, error) {
	var v Verdict
	delegations, err := v.addFiles(r, files, now)
	if err != nil {
		return v, fmt.Errorf("repository %s: %w", r.Dir, err)
	}
	for _, d := range delegations {
		_, err := manifest.Verify(ctx, files, manifest.Policy{Root: r.RootData, Channel: d.Channel, Arch: d.Arch, Now: now})
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

// addFiles adds the files and their dates, and returns the channels that have a release.
func (v *Verdict) addFiles(r *Repo, files Files, now time.Time) ([]manifest.Delegation, error) {
	timestamp, err := files.open(metadata.TIMESTAMP, 0)
	if err != nil {
		return nil, err
	}
	snapshot, err := files.open(metadata.SNAPSHOT, listed(timestamp, metadata.SNAPSHOT))
	if err != nil {
		return nil, err
	}
	targets, err := files.open(metadata.TARGETS, listed(snapshot, metadata.TARGETS))
	if err != nil {
		return nil, err
	}
	root, err := manifest.Open(r.RootData)
	if err != nil {
		return nil, err
	}
	v.addFile(r.Dir, root, now, "the root keys must sign a new root: phase-sign rotate")
	v.addFile(r.Dir, targets, now, "the root keys must sign it again: phase-sign rotate --targets-expires")
	v.addFile(r.Dir, snapshot, now, signsAgain)
	v.addFile(r.Dir, timestamp, now, signsAgain)
	all, err := manifest.ReadDelegations(targets.Data())
	return slices.DeleteFunc(all, func(d manifest.Delegation) bool {
		name, _ := d.Role()
		version := listed(snapshot, name)
		remedy := "the release keys must sign the release again: phase-sign release, then phase-publish add"
		if d.IsConfig() {
			remedy = "the keys of the role config must sign the settings again: phase-sign config renew, then phase-publish config"
		}
		if role, _ := files.open(name, version); role != nil { // Verify reports the error
			v.addFile(r.Dir, role, now, remedy)
		}
		return version == 0 || d.IsConfig()
	}), err
}

const signsAgain = "phase-publish serve, or add, signs it again"

// listed is the version of a role's file that a snapshot or a timestamp names, 0 when it names none.
func listed(d *manifest.Document, role string) int64 {
	for _, f := range d.MetaFiles() {
		if f.File == role+".json" {
			return f.Version
		}
	}
	return 0
}

func (v *Verdict) addFile(dir string, d *manifest.Document, now time.Time, remedy string) {
	since := d.SignedAt()
	if info, err := os.Stat(filepath.Join(dir, manifest.FileName(d.Role(), d.Version()))); since.IsZero() && err == nil {
		since = info.ModTime()
	}
	f := FileDate{Name: d.Role() + ".json", Version: d.Version(), Since: since.UTC().Truncate(time.Second), Expires: d.Expires().UTC(), State: StateGood, remedy: remedy}
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

// ending is the moment at which a quarter of the life is left.
func (f FileDate) ending() time.Time {
	return f.Expires.Add(-max(0, f.Expires.Sub(f.Since)) / 4)
}

// String says when the file expires or has expired, and the remedy.
func (f FileDate) String() string {
	words := "expires on"
	if f.State == StateExpired {
		words = "expired on"
	}
	return fmt.Sprintf("%s version %d %s %s; %s", f.Name, f.Version, words, f.Expires.Format(time.RFC3339), f.remedy)
}

// Remedy says how to get a file with a later expiry.
func (f FileDate) Remedy() string { return f.remedy }

// forOperator gives the remedy of the publisher's operator to a refusal: the text of
// manifest is for the person in front of a machine.
func (v *Verdict) forOperator(err error, d manifest.Delegation) error {
	name, _ := manifest.RoleName(d.Channel, d.Arch)
	for _, f := range v.Files {
		ofChannel := f.Name == name+".json" || !strings.Contains(f.Name, "-")
		if errors.Is(err, manifest.ErrExpired) && ofChannel && f.State == StateExpired {
			return refusal.New(err, "%s", f)
		}
	}
	return err
}

// NextChange is the first moment after now at which the verdict changes by itself; the
// zero time when it never does.
func (v Verdict) NextChange(now time.Time) (first time.Time) {
	for _, f := range v.Files {
		for _, t := range []time.Time{f.ending(), f.Expires} {
			if t.After(now) && (first.IsZero() || t.Before(first)) {
				first = t
			}
		}
	}
	return first
}
