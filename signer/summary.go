package signer

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/phaseboot/phaseboot/manifest"
)

// A Summary describes a metadata file and its signatures.
type Summary struct {
	File       string        `json:"file"`
	Kind       manifest.Kind `json:"kind"`
	Role       string        `json:"role"`
	Version    int64         `json:"version"`
	Repository string        `json:"repository"` // ID, "" for a repository that was made before there were IDs
	Expires    time.Time     `json:"expires"`
	Digest     string        `json:"digest"` // SHA-256 of the signed part in canonical JSON, 64 hex digits

	manifest.Signatures

	Before *Former `json:"previous_root,omitempty"` // for a root, if the root before it is in the folder

	Release *manifest.Release   `json:"release,omitempty"`
	Config  *manifest.Config    `json:"config,omitempty"`         // for the settings of machines
	Roles   []manifest.RoleKeys `json:"roles,omitempty"`          // for a root and for targets
	Sources *Sources            `json:"sources,omitempty"`        // for a root
	Names   []manifest.MetaFile `json:"names,omitempty"`          // for a snapshot and a timestamp
	Signed  *time.Time          `json:"signed_at,omitempty"`      // for a timestamp
	Unknown []string            `json:"unknown_fields,omitempty"` // signed fields that this program does not read: path = JSON
	Changes []string            `json:"changes,omitempty"`
	Since   string              `json:"changes_since,omitempty"` // the previous release's version string, or the previous root or targets
}

// Sources are the places where a root says that machines find releases.
type Sources struct {
	IPNS      []string `json:"ipns"`
	HTTPS     []string `json:"https"`
	DHTPrefix string   `json:"dht_prefix"`
	Bootstrap []string `json:"bootstrap"`
}

// Former counts the signatures of a root by the keys of the root before it, which must sign it too.
type Former struct {
	Threshold int      `json:"threshold"`
	Good      []string `json:"signed_by"` // key IDs

	missing int // signatures
}

// Complete reports whether enough listed keys have signed, and none of them other content.
func (s Summary) Complete() bool {
	return s.Signatures.Complete() && (s.Before == nil || s.Before.missing == 0)
}

// summarize describes a document. r lists the keys; it is nil when there is no repository.
func summarize(d *document, r *repository) Summary {
	s := Summary{
		File: d.path, Kind: d.Kind(), Role: d.Role(), Version: d.Version(), Expires: d.Expires(),
		Repository: d.Repository(), Digest: d.Digest(), Signatures: r.signatures(d),
		Release: d.Release(), Config: d.Config(), Roles: d.Roles(), Names: d.MetaFiles(), Unknown: d.Unknown(),
	}
	switch at := d.SignedAt(); {
	case d.Kind() == manifest.KindTimestamp && !at.IsZero():
		s.Signed = &at
	case d.Kind() == manifest.KindRoot:
		s.Sources = sources(d.Discovery())
		s.countFormer(d, r)
	}
	return s
}

// sources copies the fields of a root; JSON has [], not null.
func sources(at manifest.Discovery) *Sources {
	return &Sources{append([]string{}, at.IPNS...), append([]string{}, at.HTTPS...), at.DHTPrefix, append([]string{}, at.Bootstrap...)}
}

// countFormer counts the signatures by the keys of the root before d. They are not unlisted then.
func (s *Summary) countFormer(d *document, r *repository) {
	if r == nil {
		return
	}
	old := r.previous(d)
	if old == nil {
		return
	}
	by := d.SignaturesFor(old.Document)
	s.Before = &Former{by.Threshold, by.Good, by.Missing()}
	s.Unlisted = slices.DeleteFunc(s.Unlisted, func(id string) bool { return slices.Contains(by.Good, id) })
}

// Words describes the file for an operator, as of now.
func (s Summary) Words(now time.Time) string {
	var b strings.Builder
	if s.Release != nil {
		s.releaseWords(&b)
	} else {
		fmt.Fprintf(&b, "%s version %d\n", s.Role, s.Version)
	}
	line(&b, expiryVerb(s.Expires, now), "%s (%s)", stamp(s.Expires), humanize.RelTime(s.Expires, now, "ago", "from now"))
	if s.Config != nil {
		configWords(&b, *s.Config)
	}
	for _, r := range s.Roles {
		line(&b, "role", "%s: %d of %s", r.Name, r.Threshold, short(r.Keys))
		delegationWords(&b, r)
	}
	for _, f := range s.Names {
		line(&b, "names", "%s version %d, %s bytes, sha256 %s", f.File, f.Version, humanize.Comma(f.Length), f.SHA256)
	}
	if s.Signed != nil {
		line(&b, "signed", "%s", stamp(*s.Signed))
	}
	for _, field := range s.Unknown {
		line(&b, "UNKNOWN", "%.200q", field)
	}
	if s.Sources != nil {
		s.Sources.words(&b)
	}
	line(&b, "of", "repository %s", cmp.Or(s.Repository, "none"))
	line(&b, "digest", "%s", s.Digest)
	s.signatureWords(&b)
	if s.Since != "" {
		fmt.Fprintf(&b, "Since %s:\n", s.Since)
		for _, change := range s.Changes {
			fmt.Fprintf(&b, "  %s\n", change)
		}
	}
	return b.String()
}

// delegationWords lists the paths that a delegated role may sign.
func delegationWords(b *strings.Builder, r manifest.RoleKeys) {
	if r.Terminating == nil {
		return
	}
	for _, path := range r.Paths {
		line(b, "", "may sign %q", path)
	}
	if !*r.Terminating {
		line(b, "", "not terminating: later roles may sign the same paths")
	}
}

func (s Sources) words(b *strings.Builder) {
	each := func(what string, list ...string) {
		for _, v := range list {
			line(b, what, "%s", v)
		}
	}
	each("IPNS name", s.IPNS...)
	each("mirror", s.HTTPS...)
	if s.DHTPrefix != "" {
		each("DHT", s.DHTPrefix)
	}
	each("DHT peer", s.Bootstrap...)
}

func (s Summary) releaseWords(b *strings.Builder) {
	r := s.Release
	fmt.Fprintf(b, "Release %s for channel %s, %s (%s version %d)\n", r.Version, r.Channel, r.Arch, s.Role, r.Number)
	line(b, "cmdline", "%q", r.Cmdline)
	if r.MinRAM > 0 {
		line(b, "memory", "at least %d MiB", r.MinRAM)
	}
	if r.Bless > 0 {
		line(b, "bless", "%s, or the machine restarts; after three tries it runs an older release", blessWords(r.Bless))
	}
	if r.Job != "" {
		line(b, "runs", "%s", r.Job)
	}
	for _, a := range r.Artifacts {
		line(b, a.Role, "%s bytes", humanize.Comma(a.Length))
		line(b, "", "sha256 %s", a.SHA256)
		line(b, "", "cid    %s (%s)", a.CID, a.Chunker)
	}
	for _, s := range r.Submitters {
		submitterWords(b, s)
	}
	s.rolloutWords(b)
	line(b, "signed", "%s", stamp(r.SignedAt))
}

// blessWords says how long a target has to bless its start.
func blessWords(seconds int64) string {
	if seconds == 0 {
		return "none"
	}
	return "within " + (time.Duration(seconds) * time.Second).String()
}

// rolloutWords describes who takes the release, and the earlier ones beside it.
func (s Summary) rolloutWords(b *strings.Builder) {
	r := s.Release
	if r.First > 0 {
		line(b, "number", "%d: the content is that of version %d", r.First, r.First)
	}
	if r.Rollout != nil {
		line(b, "roll-out", "%s", r.Rollout.Words())
	}
	for _, e := range r.Earlier {
		line(b, "earlier", "%s", earlierName(e))
		line(b, "", "cmdline %q, memory %d MiB, job %q", e.Cmdline, e.MinRAM, e.Job)
		if e.Bless > 0 {
			line(b, "", "bless %s", blessWords(e.Bless))
		}
		for _, a := range e.Artifacts {
			line(b, "", "%s: %s bytes, sha256 %s", a.Role, humanize.Comma(a.Length), a.SHA256)
		}
		for _, s := range e.Submitters {
			submitterWords(b, s)
		}
	}
	if r.FallbackFloor > 0 {
		line(b, "fallback", "to number %d or later", r.FallbackFloor)
	}
}

func (s Summary) signatureWords(b *strings.Builder) {
	switch {
	case s.Threshold == 0:
		line(b, "keys", "%s; not checked; name the repository with --repo", short(s.Unlisted))
		return
	case s.Complete():
		line(b, "keys", "%d of %d needed: %s", len(s.Good), s.Threshold, short(s.Good))
	default:
		line(b, "keys", "%d of %d needed: %s; NOT VALID YET", len(s.Good), s.Threshold, short(s.Good))
	}
	if s.Before != nil {
		line(b, "and of", "root version %d, %d of %d needed: %s", s.Version-1, len(s.Before.Good), s.Before.Threshold, short(s.Before.Good))
	}
	if len(s.Bad) > 0 {
		line(b, "ALTERED", "after these keys signed it: %s", short(s.Bad))
	}
	if len(s.Unlisted) > 0 {
		line(b, "unlisted", "%s signed it too; these keys do not count", short(s.Unlisted))
	}
}

func line(b *strings.Builder, what, format string, args ...any) {
	fmt.Fprintf(b, "  %-9s %s\n", what, fmt.Sprintf(format, args...))
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// short lists key IDs for an operator, eight digits of each.
func short(ids []string) string {
	if len(ids) == 0 {
		return "none"
	}
	return strings.Join(formatEach("%.8s…", ids), ", ")
}
