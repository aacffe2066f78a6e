package report

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/dustin/go-humanize/english"
)

// SourceStats are the counters and faults of one source.
type SourceStats struct {
	Name    string   `json:"name"`
	Kind    string   `json:"kind"` // cache, folder, mirror, peer, bootstrap, mdns, dht
	Address string   `json:"address,omitempty"`
	Bytes   int64    `json:"bytes"`
	Blocks  int64    `json:"blocks"`
	Faults  []string `json:"faults,omitempty"`
	Banned  bool     `json:"banned,omitempty"`
}

// AddFault adds an error to the faults, unless it is there or there are too many.
func (s *SourceStats) AddFault(err error) {
	words := Clean(err.Error())
	if len(s.Faults) < maxFaults && !slices.Contains(s.Faults, words) {
		s.Faults = append(s.Faults, words)
	}
}

// Used reports whether the source sent bytes or made faults.
func (s SourceStats) Used() bool { return s.Blocks > 0 || len(s.Faults) > 0 }

// String describes the counters for a console.
func (s SourceStats) String() string {
	words := fmt.Sprintf("%s (%s): %s in %s", s.Name, s.Kind, Bytes(s.Bytes), english.Plural(int(s.Blocks), "block", ""))
	if s.Banned {
		words += ", banned"
	}
	return words
}

// FollowSources sets the function that returns the present counters of all sources, for LiveSources.
func (r *Report) FollowSources(counted func() []SourceStats) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counted = counted
}

// LiveSources returns the present counters of all sources, the most bytes first. It returns nil before
// FollowSources.
func (r *Report) LiveSources() []SourceStats {
	r.mu.Lock()
	counted := r.counted
	r.mu.Unlock()
	if counted == nil {
		return nil
	}
	return byBytes(counted())
}

// Sources returns a copy of the counters of all sources.
func (r *Report) Sources() (list []SourceStats) {
	r.with(func(d *reportData) { list = slices.Clone(d.Sources) })
	return list
}

// SetSources records the counters of all sources, the most bytes first. It sorts list.
func (r *Report) SetSources(list []SourceStats) {
	byBytes(list)
	r.with(func(d *reportData) { d.Sources = list })
}

// byBytes sorts a list, the most bytes first, and returns it.
func byBytes(list []SourceStats) []SourceStats {
	slices.SortStableFunc(list, func(a, b SourceStats) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return list
}
