package display

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/report"
)

const (
	recordMark = 0x1e    // begins a record (RFC 7464)
	maxRecord  = 4 << 10 // bytes: what a pipe takes as a whole
	maxLine    = 4 << 10 // bytes of a plain line
	maxText    = 512     // bytes of a text of a record
	maxName    = 100     // bytes of a name
	maxSources = 8
	maxBytes   = 1 << 50 // of a counter
	maxTime    = 10 * 365 * 24 * time.Hour
)

// An Event is one thing that a boot shows: the begin of a step, a line, or the progress of the fetch.
type Event struct {
	At       int64        `json:"at"`                 // milliseconds since the start of the kernel
	Begin    string       `json:"begin,omitempty"`    // the step that begins
	Step     string       `json:"step,omitempty"`     // the step that the line ends
	Level    report.Level `json:"level,omitempty"`    // of the line
	Text     string       `json:"text,omitempty"`     // the line
	Progress *Progress    `json:"progress,omitempty"` // of the fetch

	plain bool // Text has no time
}

// Progress is how much of a release a machine has.
type Progress struct {
	Done    int64    `json:"done"`  // bytes
	Total   int64    `json:"total"` // bytes
	Sources []Source `json:"sources,omitempty"`
}

// A Source is a source and what it has sent.
type Source struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"`
	Bytes  int64  `json:"bytes"`
	Banned bool   `json:"banned,omitempty"`
}

// Began returns the event of a step that begins.
func Began(at time.Duration, step string) Event { return Event{At: at.Milliseconds(), Begin: step} }

// LineOf returns the event of a line of a report.
func LineOf(l report.Line) Event {
	return Event{At: l.At.Milliseconds(), Step: l.Step, Level: l.Level, Text: l.Text}
}

// ProgressOf returns the event of the progress of a fetch. It has the first sources of the list.
func ProgressOf(at time.Duration, done, total int64, sources []report.SourceStats) Event {
	p := Progress{Done: done, Total: total}
	for _, s := range sources[:min(len(sources), maxSources)] {
		p.Sources = append(p.Sources, Source{cut(s.Name, maxName), cut(s.Kind, maxName), s.Bytes, s.Banned})
	}
	return Event{At: at.Milliseconds(), Progress: &p}
}

// Plain returns the event of a line without a time.
func Plain(level report.Level, text string) Event {
	return Event{Level: level, Text: cut(text, maxLine), plain: true}
}

// Encode returns the record of an event. An event that is too large loses sources, and then its text.
func (e Event) Encode() []byte {
	for {
		data, err := json.Marshal(e)
		if err == nil && len(data)+2 <= maxRecord {
			return append(append([]byte{recordMark}, data...), '\n')
		}
		if p := e.Progress; p != nil && len(p.Sources) > 0 {
			e.Progress = &Progress{p.Done, p.Total, p.Sources[:len(p.Sources)-1]}
			continue
		}
		e = Event{At: e.At, Level: e.Level, Begin: cut(e.Begin, maxName), Step: cut(e.Step, maxName), Text: cut(e.Text, maxText/2)}
	}
}

// decode returns the event of a line of the boot process: a record, or else a plain line.
func decode(line []byte) Event {
	var e Event
	if len(line) == 0 || line[0] != recordMark || json.Unmarshal(line[1:], &e) != nil {
		return Plain(report.Info, string(line))
	}
	e.plain = false
	e.At = bound(e.At, maxTime.Milliseconds())
	if e.Level < report.Info || e.Level > report.Busy {
		e.Level = report.Info
	}
	e.Begin, e.Step, e.Text = cut(e.Begin, maxName), cut(e.Step, maxName), cut(e.Text, maxText)
	if p := e.Progress; p != nil {
		p.Total = bound(p.Total, maxBytes)
		p.Done = bound(p.Done, p.Total)
		p.Sources = p.Sources[:min(len(p.Sources), maxSources)]
		for i, s := range p.Sources {
			p.Sources[i] = Source{cut(s.Name, maxName), cut(s.Kind, maxName), bound(s.Bytes, maxBytes), s.Banned}
		}
	}
	return e
}

// NotAfter returns the event with its time limited to now: the boot process may name a time of the
// future, before which nothing more would be shown.
func (e Event) NotAfter(now time.Duration) Event {
	e.At = min(e.At, now.Milliseconds())
	return e
}

func bound(n, most int64) int64 { return min(max(n, 0), most) }

// cut makes a text printable and limits it to some bytes and an ellipsis.
func cut(text string, most int) string {
	if text = report.Printable(text); len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// String is the line of an event, "" if it has none.
func (e Event) String() string {
	if e.plain || e.Text == "" {
		return e.Text
	}
	return fmt.Sprintf("[%7.3fs] %s", time.Duration(e.At*int64(time.Millisecond)).Seconds(), e.Text)
}

// IsLine reports whether an event is a line that stays.
func (e Event) IsLine() bool { return e.plain || e.Text != "" && e.Level != report.Busy }

// A Reader is an io.Writer for the output of the boot process. It passes each line on as an event.
type Reader struct {
	Take func(Event)
	line []byte // so far
}

// Write never fails.
func (r *Reader) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part, rest, ended := bytes.Cut(p, []byte{'\n'})
		if room := maxLine - len(r.line); len(part) > room {
			part, rest, ended = part[:room], p[room:], true
		}
		r.line = append(r.line, part...)
		if ended {
			r.Take(decode(r.line))
			r.line = r.line[:0]
		}
		p = rest
	}
	return n, nil
}

// Close passes on a last line without an end.
func (r *Reader) Close() {
	if len(r.line) > 0 {
		r.Take(decode(r.line))
		r.line = nil
	}
}
