package signer

import (
	"crypto/ed25519"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/phaseboot/phaseboot/manifest"
)

// A Summary is what a metadata file says and who stands for it.
type Summary struct {
	File       string        `json:"file"`
	Kind       manifest.Kind `json:"kind"`
	Role       string        `json:"role"`
	Version    int64         `json:"version"`
	Repository string        `json:"repository"` // ID, "" for a repository from before there were IDs
	Expires    time.Time     `json:"expires"`
	Digest     string        `json:"digest"` // SHA-256 of the signed part in canonical JSON, 64 hex digits

	Threshold int      `json:"threshold"` // 0 when nobody here knows who may sign it
	Good      []string `json:"signed_by"` // key IDs
	Altered   []string `json:"bad_signatures"`
	Strangers []string `json:"unlisted_signatures"`

	Before *Former `json:"previous_root,omitempty"` // of a root, where the one before it is at hand

	Release *manifest.Release `json:"release,omitempty"`
	Roles   []RoleKeys        `json:"roles,omitempty"`          // of a root, and of targets
	Sources *Sources          `json:"sources,omitempty"`        // of a root
	Names   []Named           `json:"names,omitempty"`          // of a snapshot or a timestamp
	Signed  *time.Time        `json:"signed_at,omitempty"`      // of a timestamp
	Unknown []string          `json:"unknown_fields,omitempty"` // signed, and without a meaning here: path = JSON
	Changes []string          `json:"changes,omitempty"`
	Since   string            `json:"changes_since,omitempty"` // the previous release's version string, or the previous root or targets
}

// RoleKeys says who may sign a role.
type RoleKeys struct {
	Name      string   `json:"name"`
	Threshold int      `json:"threshold"`
	Keys      []string `json:"keys"` // key IDs

	// Of a delegation: the files that it may sign, and whether no later one may sign them too.
	Paths       []string `json:"paths,omitempty"`
	Terminating *bool    `json:"terminating,omitempty"`
}

// Sources are where a root says that machines look for releases.
type Sources struct {
	IPNS      []string `json:"ipns"`
	HTTPS     []string `json:"https"`
	DHTPrefix string   `json:"dht_prefix"`
	Bootstrap []string `json:"bootstrap"`
}

// Former says how many keys of the previous root have signed a root: it has to be
// signed by them and by its own.
type Former struct {
	Threshold int      `json:"threshold"`
	Good      []string `json:"signed_by"` // key IDs
}

// Complete reports whether enough listed keys have signed, and none of them
// something else.
func (s Summary) Complete() bool {
	return s.Threshold > 0 && len(s.Good) >= s.Threshold && len(s.Altered) == 0 &&
		(s.Before == nil || len(s.Before.Good) >= s.Before.Threshold)
}

// summarize reads a document; t may be nil when there is no repository.
func summarize(d *document, t *trust) Summary {
	s := Summary{
		File: d.path, Kind: d.kind, Role: d.role, Version: d.version, Expires: d.expires,
		Repository: d.repository, Digest: d.digest(), Release: d.release, Roles: d.roles(),
		Names: d.named(), Signed: d.signedAt(), Unknown: d.unknownFields(),
	}
	if d.kind == manifest.KindRoot {
		at := manifest.ReadDiscovery(d.root)
		s.Sources = &Sources{append([]string{}, at.IPNS...), append([]string{}, at.HTTPS...), at.DHTPrefix, append([]string{}, at.Bootstrap...)}
	}
	var keys map[string]ed25519.PublicKey
	if t != nil {
		var err error
		if keys, s.Threshold, err = t.authority(d); err != nil {
			s.Threshold = 0
		}
	}
	good, bad, strangers := d.judge(keys)
	if d.kind == manifest.KindRoot && t != nil {
		s.Before, strangers = t.former(d, strangers)
	}
	s.Good, s.Altered, s.Strangers = append([]string{}, good...), append([]string{}, bad...), append([]string{}, strangers...) // JSON says [], not null
	return s
}

// former counts the signatures by the keys of the previous root, who are no strangers.
func (t *trust) former(d *document, strangers []string) (*Former, []string) {
	old := t.previous(d)
	if old == nil {
		return nil, strangers
	}
	keys, threshold := listed(old.root, old.role)
	good, _, _ := d.judge(keys)
	return &Former{threshold, append([]string{}, good...)}, slices.DeleteFunc(strangers, func(id string) bool { return slices.Contains(good, id) })
}

// roles lists what a root or a targets.json gives to whom.
func (d *document) roles() []RoleKeys {
	var list []RoleKeys
	switch d.kind {
	case manifest.KindRoot:
		for _, name := range slices.Sorted(maps.Keys(d.root.Signed.Roles)) {
			r := d.root.Signed.Roles[name]
			list = append(list, RoleKeys{Name: name, Threshold: r.Threshold, Keys: r.KeyIDs})
		}
	case manifest.KindTargets:
		if d.targets.Signed.Delegations == nil {
			return nil
		}
		for _, r := range d.targets.Signed.Delegations.Roles {
			list = append(list, RoleKeys{r.Name, r.Threshold, r.KeyIDs, r.Paths, &r.Terminating})
		}
	}
	return list
}

// Words tells a person what the file says, as of now.
func (s Summary) Words(now time.Time) string {
	var b strings.Builder
	if s.Release != nil {
		s.releaseWords(&b)
	} else {
		fmt.Fprintf(&b, "%s version %d\n", s.Role, s.Version)
	}
	verb := "expires"
	if !now.Before(s.Expires) {
		verb = "EXPIRED"
	}
	line(&b, verb, "%s (%s)", stamp(s.Expires), humanize.RelTime(s.Expires, now, "ago", "from now"))
	for _, r := range s.Roles {
		line(&b, "role", "%s: %d of %s", r.Name, r.Threshold, short(r.Keys))
		r.delegationWords(&b)
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
	line(&b, "of", "repository %s", orNone(s.Repository))
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

// delegationWords says which files a delegated role may sign.
func (r RoleKeys) delegationWords(b *strings.Builder) {
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
	if r.Job != "" {
		line(b, "runs", "%s", r.Job)
	}
	for _, a := range r.Artifacts {
		line(b, a.Role, "%s bytes", humanize.Comma(a.Length))
		line(b, "", "sha256 %s", a.SHA256)
		line(b, "", "cid    %s (%s)", a.CID, a.Chunker)
	}
	line(b, "signed", "%s", stamp(r.SignedAt))
}

func (s Summary) signatureWords(b *strings.Builder) {
	switch {
	case s.Threshold == 0:
		line(b, "keys", "%s; not checked, name the repository with --repo", short(s.Strangers))
		return
	case s.Complete():
		line(b, "keys", "%d of %d needed: %s", len(s.Good), s.Threshold, short(s.Good))
	default:
		line(b, "keys", "%d of %d needed: %s; NOT VALID YET", len(s.Good), s.Threshold, short(s.Good))
	}
	if s.Before != nil {
		line(b, "and of", "root version %d, %d of %d needed: %s", s.Version-1, len(s.Before.Good), s.Before.Threshold, short(s.Before.Good))
	}
	if len(s.Altered) > 0 {
		line(b, "ALTERED", "after these keys signed it: %s", short(s.Altered))
	}
	if len(s.Strangers) > 0 {
		line(b, "strangers", "%s signed it too; they do not count", short(s.Strangers))
	}
}

func line(b *strings.Builder, what, format string, args ...any) {
	fmt.Fprintf(b, "  %-9s %s\n", what, fmt.Sprintf(format, args...))
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// short is a list of key IDs for a person.
func short(ids []string) string {
	if len(ids) == 0 {
		return "nobody"
	}
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = fmt.Sprintf("%.8s…", id)
	}
	return strings.Join(list, ", ")
}

func shortIDs(keys map[string]ed25519.PublicKey) string {
	return short(slices.Sorted(maps.Keys(keys)))
}
