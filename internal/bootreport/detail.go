package bootreport

import (
	"encoding/json"
	"time"
)

// A Detail has what a report says of one boot beyond its Summary. Texts are made printable and cut, numbers are not
// negative; a field that the report lacks is zero.
type Detail struct {
	Steps    []Step
	Target   []Step        // of the target; At is their offset from the start of its kernel
	TargetAt time.Duration // that start, from the start of the boot, as far as the clocks of both tell
	Sources  []Source
	Refused  []Refusal
	Served   int64 // bytes sent to other machines
	Memory   int64 // bytes, the peak
	Failed   string
	Why      string // the reason why Failed was not started
	Limit    int64  // starts of a release without a blessing, at most
	Shortens bool   // the machine left out a part of its report
}

// A Step is a named part of a boot. At is its offset from the start.
type Step struct {
	Name, Words, Error string
	At, Took           time.Duration
}

// A Source is where blocks came from.
type Source struct {
	Name, Kind, Address string
	Bytes, Blocks       int64
	Faults              []string
	Banned              bool
}

// A Refusal is an offer that the machine rejected.
type Refusal struct{ Source, What, Why string }

type rawStep struct {
	Name  string `json:"name"`
	At    int64  `json:"at_ms"`
	Took  int64  `json:"took_ms"`
	Words string `json:"words"`
	Error string `json:"error"`
}

type rawSource struct {
	Name    string   `json:"name"`
	Kind    string   `json:"kind"`
	Address string   `json:"address"`
	Bytes   int64    `json:"bytes"`
	Blocks  int64    `json:"blocks"`
	Faults  []string `json:"faults"`
	Banned  bool     `json:"banned"`
}

// maxCount is the most bytes or blocks that a counter has: a larger one is not true.
const maxCount = 1 << 50

func count(n int64) int64 { return min(max(n, 0), maxCount) }

func millis(ms int64) time.Duration {
	return time.Duration(min(max(ms, 0), int64(time.Hour*24*365/time.Millisecond))) * time.Millisecond
}

func steps(raw []rawStep) (list []Step) {
	for _, s := range raw {
		list = append(list, Step{Name: cut(s.Name, maxLine), Words: cut(s.Words, maxLine), Error: cut(s.Error, maxLine), At: millis(s.At), Took: millis(s.Took)})
	}
	return list
}

func sources(raw []rawSource) (list []Source) {
	for _, s := range raw {
		one := Source{
			Name: cut(s.Name, maxLine), Kind: cut(s.Kind, 16), Address: cut(s.Address, maxLine), Bytes: count(s.Bytes), Blocks: count(s.Blocks), Banned: s.Banned,
		}
		for _, f := range s.Faults {
			one.Faults = append(one.Faults, cut(f, maxLine))
		}
		list = append(list, one)
	}
	return list
}

// Detail reads the steps, sources and refusals of the report. Of a report of another form it is empty.
func (d Document) Detail() Detail {
	var r struct {
		Start  time.Time `json:"start"`
		Steps  []rawStep `json:"steps"`
		Target struct {
			Start time.Time `json:"start"`
			Steps []rawStep `json:"steps"`
		} `json:"target"`
		Sources []rawSource `json:"sources"`
		Refused []struct {
			Source string `json:"source"`
			What   string `json:"what"`
			Why    string `json:"why"`
		} `json:"refused"`
		Served int64 `json:"served_bytes"`
		Memory int64 `json:"memory_peak_bytes"`
		Tries  struct {
			Limit  int64 `json:"limit"`
			Failed struct {
				Version string `json:"release"`
				Why     string `json:"why"`
			} `json:"failed"`
		} `json:"tries"`
		Shortened bool `json:"shortened"`
	}
	if err := json.Unmarshal(d.Report, &r); err != nil {
		return Detail{}
	}
	detail := Detail{
		Steps: steps(r.Steps), Target: steps(r.Target.Steps), Sources: sources(r.Sources), Served: count(r.Served), Memory: count(r.Memory),
		Failed: cut(r.Tries.Failed.Version, 128), Why: cut(r.Tries.Failed.Why, maxLine), Limit: count(r.Tries.Limit), Shortens: r.Shortened,
	}
	for _, s := range detail.Steps {
		detail.TargetAt = max(detail.TargetAt, s.At+s.Took)
	}
	if at := r.Target.Start.Sub(r.Start); at > 0 && at < time.Hour { // else a clock was set meanwhile
		detail.TargetAt = at
	}
	for _, f := range r.Refused {
		detail.Refused = append(detail.Refused, Refusal{cut(f.Source, maxLine), cut(f.What, maxLine), cut(f.Why, maxLine)})
	}
	return detail
}

// A Share is how many bytes a boot has read from one kind of sources.
type Share struct {
	Disk       int64 `json:"disk_bytes,omitempty"`       // the cache, and folders
	Servers    int64 `json:"servers_bytes,omitempty"`    // HTTP servers, and the publisher
	Neighbours int64 `json:"neighbours_bytes,omitempty"` // other peers
}

// Traffic is what the sources of a boot have sent.
type Traffic struct {
	Share
	Sources int64 // that sent a block or made a fault
	Faults  int64
}

// Traffic adds up the sources. publisher is the peer ID of a publisher, whose bytes are those of a server.
func (d Detail) Traffic(publisher string) (t Traffic) {
	for _, s := range d.Sources {
		if s.Blocks > 0 || len(s.Faults) > 0 {
			t.Sources++
		}
		t.Faults += int64(len(s.Faults))
		sum := t.of(s, publisher)
		*sum = count(*sum + s.Bytes)
	}
	return t
}

func (t *Share) of(s Source, publisher string) *int64 {
	switch {
	case s.Kind == "cache" || s.Kind == "folder":
		return &t.Disk
	case s.Kind == "mirror" || publisher != "" && s.Name == publisher:
		return &t.Servers
	}
	return &t.Neighbours
}
