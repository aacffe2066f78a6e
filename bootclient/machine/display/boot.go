package display

import (
	"fmt"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/report"
)

const (
	maxSteps   = 64
	maxHistory = 200             // lines
	sayAfter   = 2 * time.Second // before a step without a word of its own is shown with its time
	rateOver   = 5 * time.Second // the time over which a rate is measured
	mostLeft   = 100 * time.Hour // the longest time left that is shown

	sampleEvery = 200 * time.Millisecond // between samples, so that their number is bounded
)

// A Boot is what all consoles show of the attempts of a boot.
type Boot struct {
	steps   []step
	busy    string // what the running step says of itself
	samples []sample
	history []Event // the last lines
}

// A step is a named part of the boot.
type step struct {
	name  string
	at    time.Duration // since the start of the kernel
	ended bool
	level report.Level
	words string
}

// A sample is the progress at a time.
type sample struct {
	at time.Duration
	Progress
}

// Take adds an event. now is the time since the start of the kernel.
func (b *Boot) Take(e Event, now time.Duration) {
	switch {
	case e.Progress != nil:
		if n := len(b.samples); n > 0 && now-b.samples[n-1].at < sampleEvery {
			b.samples[n-1].Progress = *e.Progress
			return
		}
		b.samples = append(b.samples, sample{now, *e.Progress})
		for len(b.samples) > 2 && b.samples[1].at <= now-rateOver {
			b.samples = b.samples[1:]
		}
	case e.Begin != "":
		b.busy = ""
		if e.Begin == "fetch" {
			b.samples = nil // those of another release
		}
		b.steps = append(b.steps, step{name: e.Begin, at: time.Duration(e.At) * time.Millisecond})
		b.steps = b.steps[max(0, len(b.steps)-maxSteps):]
	case e.Level == report.Busy:
		b.busy = e.Text
	case e.IsLine():
		b.busy = ""
		b.history = append(b.history, e)
		b.history = b.history[max(0, len(b.history)-maxHistory):]
		b.end(e)
	}
}

// History returns the last lines.
func (b *Boot) History() []Event { return b.history }

// end ends the step of a line.
func (b *Boot) end(e Event) {
	for i := len(b.steps) - 1; i >= 0 && e.Step != ""; i-- {
		if s := &b.steps[i]; s.name == e.Step && !s.ended {
			s.ended, s.level, s.words = true, e.Level, e.Text
			if name := s.name + ": "; len(s.words) > len(name) && s.words[:len(name)] == name {
				s.words = s.words[len(name):]
			}
			return
		}
	}
}

// running returns the step that began last and has not ended, nil if there is none.
func (b *Boot) running() *step {
	for i := len(b.steps) - 1; i >= 0; i-- {
		if !b.steps[i].ended {
			return &b.steps[i]
		}
	}
	return nil
}

// now returns what goes on at a time, "" if there is nothing to say yet.
func (b *Boot) now(at time.Duration) string {
	s := b.running()
	switch {
	case b.busy != "":
		return b.busy
	case s == nil:
		return ""
	case s.name == "fetch" && len(b.samples) > 0:
		return "fetch: " + b.fetched(at)
	case at-s.at >= sayAfter:
		return fmt.Sprintf("%s: %s so far", s.name, (at - s.at).Truncate(time.Second))
	}
	return ""
}

// fetched describes the progress of the fetch: 41%, 23 MiB of 57 MiB, 5.6 MiB/s, 3 sources, 6s left.
func (b *Boot) fetched(at time.Duration) string {
	last := b.samples[len(b.samples)-1]
	text := fmt.Sprintf("%d%%, %s of %s", last.percent(), report.Bytes(last.Done), report.Bytes(last.Total))
	if last.Done == last.Total {
		return text
	}
	rate := b.rate(at, func(p Progress) int64 { return p.Done })
	if rate > 0 {
		text += ", " + report.Bytes(rate) + "/s"
	}
	sending := 0
	for _, s := range last.Sources {
		if s.Bytes > 0 && !s.Banned {
			sending++
		}
	}
	text += ", " + report.Count(sending, "source")
	switch since := (at - last.at).Truncate(time.Second); {
	case rate == 0 && since < sayAfter:
		return text
	case rate == 0:
		return text + fmt.Sprintf(", no data for %s", since)
	}
	left := min(float64(last.Total-last.Done)/float64(rate), mostLeft.Seconds()) // a duration cannot hold every number
	return text + fmt.Sprintf(", %s left", time.Duration(left*float64(time.Second)).Round(time.Second))
}

func (p Progress) percent() int64 {
	if p.Total <= 0 {
		return 100
	}
	return p.Done * 100 / p.Total
}

// rate returns by how much a counter has grown in a second.
func (b *Boot) rate(at time.Duration, count func(Progress) int64) int64 {
	if len(b.samples) == 0 {
		return 0
	}
	first, last := b.samples[0], b.samples[len(b.samples)-1]
	for i, s := range b.samples {
		if s.at <= at-rateOver {
			first = s
		}
		if i > 0 && s.at-b.samples[i-1].at > rateOver { // a silence does not count
			first = s
		}
	}
	seconds := (at - first.at).Seconds()
	if grown := count(last.Progress) - count(first.Progress); grown > 0 && seconds > 0.1 {
		return int64(float64(grown) / seconds)
	}
	return 0
}

// sent returns the bytes of a source.
func (p Progress) sent(name, kind string) int64 {
	for _, s := range p.Sources {
		if s.Name == name && s.Kind == kind {
			return s.Bytes
		}
	}
	return 0
}
