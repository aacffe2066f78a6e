package admin

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/reports"
)

// A releaseRow is one release of a channel, for the machines of its roll-out.
type releaseRow struct {
	manifest.Release
	Earlier  bool // for machines that do not take the newest
	SignedBy manifest.Signatures
	Refused  string // why machines refuse the channel
}

type overview struct {
	State
	Rows    []releaseRow
	Dates   []repo.FileDate // the one that expires first is first
	Stats   *reports.Stats
	Running []reports.Running
}

func (p *Page) overview(r *http.Request) (content, error) {
	s, err := p.currentState(r.Context())
	if err != nil {
		return content{}, err
	}
	o := overview{State: s, Dates: slices.Clone(s.Verdict.Files)}
	slices.SortStableFunc(o.Dates, func(a, b repo.FileDate) int { return a.Expires.Compare(b.Expires) })
	for _, rel := range s.Releases {
		signed := s.signatures(rel)
		for i, one := range rel.All() {
			o.Rows = append(o.Rows, releaseRow{one, i > 0, signed, s.refused(rel)})
		}
	}
	if p.Reports != nil {
		stats, err := p.Reports.Stats(r.Context())
		if err != nil {
			return content{}, err
		}
		o.Stats = &stats
		if o.Running, err = p.running.get(r.Context(), p.Now(), p.Reports.Running); err != nil {
			return content{}, err
		}
	}
	return content{name: "overview", title: "Overview", live: true, data: o}, nil
}

// signatures counts the signatures of a release by the keys that targets.json lists.
func (s State) signatures(rel manifest.Release) manifest.Signatures {
	name, err := manifest.RoleName(rel.Channel, rel.Arch)
	if err != nil {
		return manifest.Signatures{}
	}
	role, err := manifest.Open(s.Files[manifest.FileName(name, rel.Number)])
	if err != nil {
		return manifest.Signatures{}
	}
	for _, f := range s.Verdict.Files {
		if f.Name == "targets.json" {
			if targets, err := manifest.Open(s.Files[manifest.FileName("targets", f.Version)]); err == nil {
				return role.SignaturesFor(targets)
			}
		}
	}
	return role.SignaturesFor(nil)
}

// refused says why machines refuse the channel of a release, "" if they accept it.
func (s State) refused(rel manifest.Release) string {
	for _, c := range s.Verdict.Channels {
		if c.Channel == rel.Channel && c.Arch == rel.Arch {
			return c.Refused
		}
	}
	return ""
}

type heads struct {
	State
	Own     repo.FileDate // the timestamp of this publisher
	Mirrors []mirrorRow
}

type mirrorRow struct {
	mirror
	Good  bool
	Words string // how it compares with this publisher
}

func (p *Page) heads(r *http.Request) (content, error) {
	s, err := p.currentState(r.Context())
	if err != nil {
		return content{}, err
	}
	h := heads{State: s}
	for _, f := range s.Verdict.Files {
		if f.Name == "timestamp.json" {
			h.Own = f
		}
	}
	for _, m := range p.mirrors.current() {
		h.Mirrors = append(h.Mirrors, mirrorRow{m, m.Fault == "" && m.Head == s.Head, s.compare(m)})
	}
	return content{name: "heads", title: "Heads", live: true, data: h}, nil
}

// compare says how the head of a mirror compares with the one of this publisher.
func (s State) compare(m mirror) string {
	switch n := s.Timestamp - m.Timestamp; {
	case m.Fault != "":
		return m.Fault
	case m.Head == s.Head:
		return "the same head"
	case n > 0:
		return fmt.Sprintf("%d behind: export to it again", n)
	case n < 0:
		return fmt.Sprintf("%d ahead: another publisher signs for it", -n)
	}
	return "the same version with other content: two publishers sign"
}
