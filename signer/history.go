package signer

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// HistorySpec names a channel of a repository.
type HistorySpec struct {
	Repo, Channel, Arch string
}

// A Past is a release of a channel whose manifest is in the repository.
type Past struct {
	Number    int64     `json:"role_version"`
	Version   string    `json:"release"`
	SignedAt  time.Time `json:"signed_at"`
	Expires   time.Time `json:"expires"`
	Good      []string  `json:"signed_by"` // IDs of keys that the channel lists now
	Threshold int       `json:"threshold"`
	SameAs    int64     `json:"same_as,omitempty"` // the first role version with the same content
	File      string    `json:"file"`

	First   int64             `json:"number,omitempty"`  // as manifest.Release has it
	Rollout *manifest.Rollout `json:"rollout,omitempty"` // nil for every machine
	Earlier []string          `json:"earlier,omitempty"` // version strings of the earlier releases beside it

	release manifest.Release
}

// History lists the releases of a channel whose manifests are in the repository, oldest first.
// Signatures are counted by the keys that the channel lists now. Expiry is not checked. A channel
// that is not in the repository wraps fs.ErrNotExist.
func History(s HistorySpec) ([]Past, error) {
	role, err := roleName(s.Channel, s.Arch)
	if err != nil {
		return nil, err
	}
	r, err := openRepository(filepath.Join(s.Repo, RootName), s.Repo, true, time.Time{})
	if err != nil {
		return nil, err
	}
	if _, err := r.keysOf(manifest.KindRole, role); err != nil {
		return nil, err
	}
	return r.history(role)
}

// history reads the manifests of a role, oldest first. It skips damaged files: they cannot be
// promoted or signed again.
func (r *repository) history(role string) ([]Past, error) {
	numbers, err := manifest.DirFetcher(r.dir).Versions(role)
	if err != nil {
		return nil, fmt.Errorf("repository %s: %w", r.dir, file.Advise(err))
	}
	list := []Past{}
	for _, n := range numbers {
		d, err := openVersion(r.dir, role, n)
		if isDamaged(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, r.past(d, list))
	}
	return list, nil
}

// isDamaged reports that a file is there, and is not the metadata that its name says.
func isDamaged(err error) bool {
	return errors.Is(err, manifest.ErrMalformed) || errors.Is(err, manifest.ErrUntrusted) || errors.Is(err, cas.ErrCorrupt)
}

// past describes a release manifest. before has the older ones of the channel.
func (r *repository) past(d *document, before []Past) Past {
	release, signatures := d.Release(), r.signatures(d)
	p := Past{
		Number: release.Number, Version: release.Version, SignedAt: release.SignedAt, Expires: release.Expires,
		Good: signatures.Good, Threshold: signatures.Threshold, File: d.path, release: *release,
		First: release.First, Rollout: release.Rollout,
	}
	for _, e := range release.Earlier {
		p.Earlier = append(p.Earlier, e.Version)
	}
	if i := slices.IndexFunc(before, func(b Past) bool { return sameContent(b.release, p.release) }); i >= 0 {
		p.SameAs = cmp.Or(before[i].SameAs, before[i].Number)
	}
	return p
}

// sameContent reports whether a machine runs the same with both releases.
func sameContent(a, b manifest.Release) bool {
	return a.Cmdline == b.Cmdline && a.MinRAM == b.MinRAM && a.Job == b.Job && a.Bless == b.Bless &&
		slices.EqualFunc(a.Artifacts, b.Artifacts, func(x, y manifest.Artifact) bool {
			return x.Role == y.Role && x.SHA256 == y.SHA256 && x.Length == y.Length
		}) && slices.EqualFunc(a.Submitters, b.Submitters, samePolicy)
}

// checkUnused refuses a version string that the channel has used for other content: operators and
// reports name a release by its version string.
func (s ManifestSpec) checkUnused(r *repository, d *document) error {
	if s.Force {
		return nil
	}
	past, err := r.history(d.Role())
	if err != nil {
		return err
	}
	release := d.Release()
	for _, p := range past {
		if p.Version == release.Version && !sameContent(p.release, *release) {
			return refusal.New(fs.ErrExist, "release %q: channel %s has used this name for other content (version %d, signed on %s); choose another --release, or use --force",
				release.Version, s.Channel, p.Number, stamp(p.SignedAt))
		}
	}
	return nil
}

// HistoryWords lists releases for an operator, a line for each.
func HistoryWords(list []Past, now time.Time) string {
	var b strings.Builder
	for _, p := range list {
		fmt.Fprintf(&b, "%6d  %-20s signed %s, %s %s, keys %d of %d", p.Number, p.Version, stamp(p.SignedAt), expiryVerb(p.Expires, now), stamp(p.Expires), len(p.Good), p.Threshold)
		if p.SameAs > 0 {
			fmt.Fprintf(&b, ", same content as %d", p.SameAs)
		}
		if p.Rollout != nil {
			fmt.Fprintf(&b, ", for %s", p.Rollout.Words())
		}
		if len(p.Earlier) > 0 {
			fmt.Fprintf(&b, ", with %s for the others", strings.Join(p.Earlier, " and "))
		}
		b.WriteString("\n")
	}
	if len(list) == 0 {
		b.WriteString("no release yet\n")
	}
	return b.String()
}

func expiryVerb(t, now time.Time) string {
	if now.Before(t) {
		return "expires"
	}
	return "EXPIRED"
}

// A Channel is one delegated role of a repository.
type Channel struct {
	Channel   string   `json:"channel"`
	Arch      string   `json:"arch"`
	Threshold int      `json:"threshold"`
	Keys      []string `json:"keys"`             // key IDs
	Newest    *Past    `json:"newest,omitempty"` // nil when there is no release
}

// Channels lists the channels of a repository, each with its newest release.
func Channels(repo string) ([]Channel, error) {
	r, err := openRepository(filepath.Join(repo, RootName), repo, true, time.Time{})
	if err != nil {
		return nil, err
	}
	if r.targets == nil {
		return nil, r.noTargets()
	}
	list := []Channel{}
	for _, role := range r.targets.Roles() {
		if role.Name == manifest.ConfigRole {
			continue
		}
		past, err := r.history(role.Name)
		if err != nil {
			return nil, err
		}
		channel, arch, _ := manifest.SplitRole(role.Name)
		c := Channel{Channel: channel, Arch: arch, Threshold: role.Threshold, Keys: role.Keys}
		if len(past) > 0 {
			c.Newest = &past[len(past)-1]
		}
		list = append(list, c)
	}
	return list, nil
}

// ChannelWords lists channels for an operator, a line for each.
func ChannelWords(list []Channel, now time.Time) string {
	var b strings.Builder
	for _, c := range list {
		fmt.Fprintf(&b, "%-12s %-8s %d of %s: ", c.Channel, c.Arch, c.Threshold, short(c.Keys))
		if c.Newest == nil {
			b.WriteString("no release yet\n")
			continue
		}
		fmt.Fprintf(&b, "release %s (version %d), %s %s\n", c.Newest.Version, c.Newest.Number, expiryVerb(c.Newest.Expires, now), stamp(c.Newest.Expires))
	}
	if len(list) == 0 {
		b.WriteString("no channel\n")
	}
	return b.String()
}
