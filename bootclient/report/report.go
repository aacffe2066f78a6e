package report

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/timing"
	"github.com/phaseboot/phaseboot/internal/p2p"
)

// Limits of a report, so that hostile peers cannot fill the memory with refusals.
const (
	maxRefused = 128
	maxFaults  = 16  // of one source
	maxWords   = 400 // bytes of one text from outside
	maxTail    = 60  // lines
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
	tail    []string     // the last lines, for Tail
	data    reportData
}

type reportData struct {
	Result   string        `json:"result"`          // "", "ok" or "failed"
	Error    string        `json:"error,omitempty"` // the reason
	Start    time.Time     `json:"start"`
	Duration Millis        `json:"duration_ms"`
	Mode     string        `json:"mode,omitempty"`
	Release  *Release      `json:"release,omitempty"`
	Tries    *Tries        `json:"tries,omitempty"` // nil if starts are not counted
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

// Tries says how often a machine has tried to start its release.
type Tries struct {
	Starts int            `json:"starts"` // of the release, with this one, since its target has last blessed one
	Limit  int            `json:"limit"`
	Failed *FailedRelease `json:"failed,omitempty"`
}

// A FailedRelease is the newest release, in whose place an older one is booted.
type FailedRelease struct {
	Version string `json:"release"`
	Number  int64  `json:"role_version"`
	Content string `json:"content"` // as manifest.Release.Content
	Starts  int    `json:"starts"`  // without a blessing
	Why     string `json:"why"`
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
	line.At = time.Since(r.start)
	if line.Level != Busy {
		if len(r.tail) == maxTail {
			r.tail = append(r.tail[:0], r.tail[1:]...)
		}
		r.tail = append(r.tail, line.String())
	}
	if r.display != nil {
		r.display.Line(line)
	}
}

// Tail returns the last lines that were printed, at most 60, without those of progress.
func (r *Report) Tail() (list []string) {
	r.with(func(*reportData) { list = slices.Clone(r.tail) })
	return list
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
	r.data.Memory = processPeak()
}

// Refused returns a copy of the refusals.
func (r *Report) Refused() (list []Refusal) {
	r.with(func(d *reportData) { list = slices.Clone(d.Refused) })
	return list
}

// SetTries records how often the release was started without a blessing, and which one has failed.
func (r *Report) SetTries(t Tries) { r.with(func(d *reportData) { d.Tries = &t }) }

// FellBack reports whether an older release is booted in place of the newest one, which has failed.
func (r *Report) FellBack() (fell bool) {
	r.with(func(d *reportData) { fell = d.Tries != nil && d.Tries.Failed != nil })
	return fell
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

// Release returns the release that was chosen, nil before SetRelease.
func (r *Report) Release() (l *Release) {
	r.with(func(d *reportData) { l = d.Release })
	return l
}

// SetServed records the bytes that were sent to other machines.
func (r *Report) SetServed(n int64) { r.with(func(d *reportData) { d.Served = n }) }

// SetServing records where the machine continues to serve.
func (r *Report) SetServing(at Ready) { r.with(func(d *reportData) { d.Serving = &at }) }

// Served returns the bytes sent to other machines, up to the end of Run.
func (r *Report) Served() (n int64) {
	r.with(func(d *reportData) { n = d.Served })
	return n
}
