package report

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"

	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/p2p"
)

// Limits of a report, so that hostile peers cannot fill the memory with refusals.
const (
	maxRefused = 128
	maxFaults  = 16  // of one source
	maxWords   = 400 // bytes of one text from outside
)

// A Report records one boot or fetch: every step with its time, every source with its bytes
// and faults, and each refusal with its reason. Its JSON form is one object. It is safe for
// concurrent use; make it with New.
type Report struct {
	mu      sync.Mutex
	start   time.Time
	display Display // nil for none
	counted func() []SourceStats
	used    func() int64 // memory in use, nil if it is not recorded
	data    reportData
}

type reportData struct {
	Result   string        `json:"result"`          // "", "ok" or "failed"
	Error    string        `json:"error,omitempty"` // the reason
	Start    time.Time     `json:"start"`
	Duration Millis        `json:"duration_ms"`
	Mode     string        `json:"mode,omitempty"`
	Release  *Release      `json:"release,omitempty"`
	Steps    []*Step       `json:"steps"`
	Sources  []SourceStats `json:"sources"`
	Refused  []Refusal     `json:"refused"`
	Served   int64         `json:"served_bytes"`      // bytes sent to other machines during the fetch
	Serving  *Ready        `json:"serving,omitempty"` // addresses, when it continues to serve
	Memory   int64         `json:"memory_peak_bytes"` // VmHWM of this process
}

// Millis is a duration that is written as whole milliseconds in JSON.
type Millis time.Duration

// MarshalJSON writes whole milliseconds.
func (m Millis) MarshalJSON() ([]byte, error) {
	return strconv.AppendInt(nil, time.Duration(m).Milliseconds(), 10), nil
}

// Release names the release that was chosen.
type Release struct {
	Channel   string `json:"channel"`
	Arch      string `json:"arch"`
	Version   string `json:"release"`
	Number    int64  `json:"role_version"`
	Timestamp int64  `json:"timestamp_version"`
}

// A Step is one named part of the work. At is its offset from the start.
type Step struct {
	Name  string `json:"name"`
	At    Millis `json:"at_ms"`
	Took  Millis `json:"took_ms"`
	Words string `json:"words,omitempty"`
	Error string `json:"error,omitempty"`
	// Memory is the most memory of the machine that was in use, the payload included. It is sampled.
	Memory int64 `json:"memory_bytes,omitempty"`

	report *Report
	ended  bool
}

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

// Ready has the addresses of a machine that serves.
type Ready struct {
	p2p.Endpoints
	Release string `json:"release,omitempty"` // its version
	Head    string `json:"head,omitempty"`    // CID of its metadata directory
}

// A Refusal is an offer that was rejected.
type Refusal struct {
	Source string `json:"source"`
	What   string `json:"what"`
	Why    string `json:"why"`
}

// New begins a report. Finished steps are printed to console, one line each, if console
// is not nil. A console that is a Display gets them as it wants. Times are offsets from start.
func New(start time.Time, console io.Writer) *Report {
	return &Report{
		start: start, display: displayOf(console),
		data: reportData{Start: start.UTC(), Steps: []*Step{}, Sources: []SourceStats{}, Refused: []Refusal{}},
	}
}

// Begin starts a step. The step is printed when it ends.
func (r *Report) Begin(name string) *Step {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &Step{Name: name, At: Millis(time.Since(r.start)), report: r}
	r.data.Steps = append(r.data.Steps, s)
	r.sample()
	if r.display != nil {
		r.display.Begin(time.Duration(s.At), Clean(name))
	}
	return s
}

// Done ends a step with its result.
func (s *Step) Done(format string, args ...any) {
	words := Clean(fmt.Sprintf(format, args...))
	s.end(words, "", OK, words)
}

// Fail ends a step with its error and returns that error.
func (s *Step) Fail(err error) error {
	reason := Clean(err.Error())
	s.end("", reason, Failed, "failed: "+reason)
	return err
}

// Skip is Fail for an error after which the work continues without the step.
func (s *Step) Skip(err error) {
	reason := Clean(err.Error())
	s.end("", reason, Warning, "failed: "+reason)
}

// Abort is Fail for an error that ends the whole boot. It does not print the cause, which the
// caller prints at the end.
func (s *Step) Abort(err error) error {
	line := "failed"
	if errors.Is(err, context.Canceled) {
		line = "interrupted"
	}
	s.end("", Clean(err.Error()), Failed, line)
	return err
}

// end records the result or the reason of the failure, and prints the line behind the step's name.
func (s *Step) end(words, reason string, level Level, line string) {
	r := s.report
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Took = Millis(time.Since(r.start)) - s.At
	r.sample()
	s.Words, s.Error, s.ended = words, reason, true
	r.print(Line{Step: s.Name, Level: level, Text: s.Name + ": " + line})
}

// Say prints one line with the time. The line is not part of the report's JSON form.
func (r *Report) Say(format string, args ...any) {
	r.say(Info, format, args...)
}

// Warn is Say for something that a person should notice.
func (r *Report) Warn(format string, args ...any) {
	r.say(Warning, format, args...)
}

// Busy is Say for the progress of long work. A terminal may replace the line by the next one.
func (r *Report) Busy(format string, args ...any) {
	r.say(Busy, format, args...)
}

func (r *Report) say(level Level, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.print(Line{Level: level, Text: Clean(fmt.Sprintf(format, args...))})
}

// While runs f. Meanwhile it says words(time so far) every timing.SayBusy.
func (r *Report) While(words func(so time.Duration) string, f func()) {
	ended := make(chan struct{})
	var g sync.WaitGroup
	g.Go(func() {
		began := time.Now()
		tick := time.NewTicker(timing.SayBusy)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				r.Busy("%s", words(time.Since(began).Round(time.Second)))
			case <-ended:
				return
			}
		}
	})
	f()
	close(ended)
	g.Wait()
}

func (r *Report) print(line Line) {
	if r.display != nil {
		line.At = time.Since(r.start)
		r.display.Line(line)
	}
}

// Refuse records an offer that was rejected, with the reason, and prints it.
func (r *Report) Refuse(source, what string, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := Refusal{Clean(source), Clean(what), Clean(why.Error())}
	if slices.Contains(r.data.Refused, f) || len(r.data.Refused) >= maxRefused {
		return
	}
	r.data.Refused = append(r.data.Refused, f)
	r.print(Line{Level: Warning, Text: fmt.Sprintf("refused: %s from %s: %s", f.What, f.Source, f.Why)})
}

// Finish ends the report with the result and the peak of memory.
func (r *Report) Finish(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.data.Result, r.data.Error = "ok", ""
	if err != nil {
		r.data.Result, r.data.Error = "failed", Clean(err.Error())
	}
	r.data.Duration = Millis(time.Since(r.start))
	r.data.Memory = memoryPeak()
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

// Refused returns a copy of the refusals.
func (r *Report) Refused() (list []Refusal) {
	r.with(func(d *reportData) { list = slices.Clone(d.Refused) })
	return list
}

// MarshalJSON writes the report as one object.
func (r *Report) MarshalJSON() ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return json.Marshal(&r.data)
}

// Words writes the report for a console: the release, the sources that sent bytes or made
// faults, and the refusals if the boot succeeded.
func (r *Report) Words(w io.Writer) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	if l := r.data.Release; l != nil {
		fmt.Fprintf(&b, "release %s (%s/%s, version %d)\n", l.Version, l.Channel, l.Arch, l.Number)
	}
	for _, s := range r.data.Sources {
		if !s.Used() {
			continue
		}
		fmt.Fprintf(&b, "source  %s\n", s)
		for _, f := range s.Faults {
			fmt.Fprintf(&b, "        fault: %s\n", f)
		}
	}
	for _, f := range r.data.Refused {
		if r.data.Result == "failed" {
			break // the error names the reason, and each refusal was printed before
		}
		fmt.Fprintf(&b, "refused %s from %s: %s\n", f.What, f.Source, f.Why)
	}
	if r.data.Served > 0 {
		fmt.Fprintf(&b, "served  %s to other machines\n", Bytes(r.data.Served))
	}
	if r.data.Memory > 0 {
		fmt.Fprintf(&b, "memory  %s at the peak\n", Bytes(r.data.Memory))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// with calls f with the data, under the lock.
func (r *Report) with(f func(d *reportData)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.data)
}

// SetMode records the name of the mode.
func (r *Report) SetMode(name string) { r.with(func(d *reportData) { d.Mode = name }) }

// SetRelease records the release that was chosen.
func (r *Report) SetRelease(l Release) { r.with(func(d *reportData) { d.Release = &l }) }

// SetServed records the bytes that were sent to other machines.
func (r *Report) SetServed(n int64) { r.with(func(d *reportData) { d.Served = n }) }

// SetServing records where the machine continues to serve.
func (r *Report) SetServing(at Ready) { r.with(func(d *reportData) { d.Serving = &at }) }

// Served returns the bytes sent to other machines, up to the end of Run.
func (r *Report) Served() (n int64) {
	r.with(func(d *reportData) { n = d.Served })
	return n
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

// Printable makes a text from outside safe for one line of a console: tabs and newlines become
// spaces, and control characters, escapes and direction marks become '?'.
func Printable(s string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\n', c == '\t':
			return ' '
		case !strconv.IsPrint(c):
			return '?'
		}
		return c
	}, s)
}

// Clean is Printable, limited in length and without passwords of URLs.
func Clean(s string) string {
	s = Printable(bootargs.Redact(s))
	if len(s) > maxWords {
		s = strings.ToValidUTF8(s[:maxWords], "") + "…"
	}
	return s
}

// memoryPeak returns the peak of this process's memory in bytes, 0 if the kernel does not
// report it.
func memoryPeak() int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}

// Count returns a number and a noun.
func Count(n int, thing string) string {
	return fmt.Sprintf("%d %s", n, english.PluralWord(n, thing, ""))
}

// Bytes formats a number of bytes, such as 57 MiB.
func Bytes(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
