package signer

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/manifest"
)

// HistorySpec names a channel of a repository.
type HistorySpec struct {
	Repo, Channel, Arch string
}

// A Past is one release of a channel, as its manifest in the repository says.
type Past struct {
	Number    int64     `json:"role_version"`
	Version   string    `json:"release"`
	SignedAt  time.Time `json:"signed_at"`
	Expires   time.Time `json:"expires"`
	Good      []string  `json:"signed_by"` // key IDs that the channel lists today
	Threshold int       `json:"threshold"`
	SameAs    int64     `json:"same_as,omitempty"` // the first role version with the same content
	File      string    `json:"file"`

	release manifest.Release
}

// History lists the releases of a channel whose manifests the repository has, oldest first.
// Signatures are counted by the keys of today, dates are not judged. A channel that the
// repository does not have wraps fs.ErrNotExist.
func History(s HistorySpec) ([]Past, error) {
	role, err := roleName(s.Channel, s.Arch)
	if err != nil {
		return nil, err
	}
	t, err := openTrust(filepath.Join(s.Repo, RootName), s.Repo, true, time.Time{})
	if err != nil {
		return nil, err
	}
	d := &document{kind: manifest.KindRole, role: role, release: &manifest.Release{Channel: s.Channel, Arch: s.Arch}}
	if _, _, err := t.authority(d); err != nil {
		return nil, err
	}
	return t.history(role)
}

// history reads the manifests of a role, oldest first. A file that is no manifest any more
// is passed over: it cannot be promoted or signed again either.
func (t *trust) history(role string) ([]Past, error) {
	numbers, err := versionsOf(t.dir, role)
	if err != nil {
		return nil, err
	}
	list := []Past{}
	for _, n := range numbers {
		d, err := openVersion(t.dir, role, n)
		if errors.Is(err, manifest.ErrMalformed) || errors.Is(err, manifest.ErrUntrusted) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, t.past(d, list))
	}
	return list, nil
}

func (t *trust) past(d *document, before []Past) Past {
	sum := summarize(d, t)
	p := Past{
		Number: d.version, Version: d.release.Version, SignedAt: d.release.SignedAt, Expires: d.expires,
		Good: sum.Good, Threshold: sum.Threshold, File: d.path, release: *d.release,
	}
	if i := slices.IndexFunc(before, func(b Past) bool { return sameContent(b.release, p.release) }); i >= 0 {
		p.SameAs = cmp.Or(before[i].SameAs, before[i].Number)
	}
	return p
}

// versionsOf lists the versions of a role's files in a folder, in ascending order.
func versionsOf(dir, role string) ([]int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("repository %s: %w", dir, advise(err))
	}
	var numbers []int64
	for _, e := range entries {
		prefix, ok := strings.CutSuffix(e.Name(), "."+role+".json")
		n, err := strconv.ParseInt(prefix, 10, 64)
		if ok && err == nil && manifest.FileName(role, n) == e.Name() {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// sameContent reports whether two releases give a machine the same to run.
func sameContent(a, b manifest.Release) bool {
	return a.Cmdline == b.Cmdline && a.MinRAM == b.MinRAM && a.Job == b.Job &&
		slices.EqualFunc(a.Artifacts, b.Artifacts, func(x, y manifest.Artifact) bool {
			return x.Role == y.Role && x.SHA256 == y.SHA256 && x.Length == y.Length
		})
}

// unused refuses a version string that the channel has given to other content: people and
// reports name a release by it.
func (s ReleaseSpec) unused(t *trust, role string, r manifest.Release) error {
	if s.Force {
		return nil
	}
	past, err := t.history(role)
	if err != nil {
		return err
	}
	for _, p := range past {
		if p.Version == r.Version && !sameContent(p.release, r) {
			return because(fs.ErrExist, "release %q: channel %s has used this name for other content (version %d, signed on %s); choose another --release, or insist with --force",
				r.Version, s.Channel, p.Number, stamp(p.SignedAt))
		}
	}
	return nil
}

// HistoryWords tells a person the releases of a channel.
func HistoryWords(list []Past, now time.Time) string {
	var b strings.Builder
	for _, p := range list {
		fmt.Fprintf(&b, "%6d  %-20s signed %s, %s %s, keys %d of %d", p.Number, p.Version, stamp(p.SignedAt), expiryVerb(p.Expires, now), stamp(p.Expires), len(p.Good), p.Threshold)
		if p.SameAs > 0 {
			fmt.Fprintf(&b, ", same content as %d", p.SameAs)
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
	t, err := openTrust(filepath.Join(repo, RootName), repo, true, time.Time{})
	if err != nil {
		return nil, err
	}
	if t.targets == nil {
		return nil, t.noTargets()
	}
	list := []Channel{}
	for _, r := range t.targets.roles() {
		past, err := t.history(r.Name)
		if err != nil {
			return nil, err
		}
		channel, arch, _ := manifest.SplitRole(r.Name)
		c := Channel{Channel: channel, Arch: arch, Threshold: r.Threshold, Keys: r.Keys}
		if len(past) > 0 {
			c.Newest = &past[len(past)-1]
		}
		list = append(list, c)
	}
	return list, nil
}

// ChannelWords tells a person the channels of a repository.
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
