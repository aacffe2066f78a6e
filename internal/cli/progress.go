package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

const (
	// barDelay is the time before the bars appear.
	barDelay = 2 * time.Second

	// LineEvery is the interval of progress lines if stderr is not a terminal.
	LineEvery = 10 * time.Second
)

// A Progress shows the progress of long work on stderr, with bytes, rate and time left for each file
// that is read. On a terminal it draws bars, after the first two seconds; elsewhere it writes a line
// for each file every ten seconds.
type Progress struct {
	bars  *mpb.Progress
	timer *time.Timer
	stop  func()

	mu    sync.Mutex
	tasks []*task // in progress, without a terminal
}

// NewProgress starts a Progress. The caller must close it.
func NewProgress(ctx context.Context) *Progress {
	if !term.IsTerminal(int(os.Stderr.Fd())) {
		return newLines(os.Stderr, time.NewTicker(LineEvery))
	}
	show := make(chan struct{})
	return &Progress{
		timer: time.AfterFunc(barDelay, func() { close(show) }),
		bars:  mpb.NewWithContext(ctx, mpb.WithOutput(os.Stderr), mpb.WithWidth(40), mpb.WithRenderDelay(show)),
	}
}

// Draws reports whether stderr is a terminal, on which other output must not be mixed with the display.
func (p *Progress) Draws() bool { return p.bars != nil }

// newLines returns a Progress that writes lines to w at each tick.
func newLines(w io.Writer, tick *time.Ticker) *Progress {
	p := &Progress{}
	done := make(chan struct{})
	p.stop = sync.OnceFunc(func() { tick.Stop(); close(done) })
	go func() {
		for {
			select {
			case <-done:
				return
			case now := <-tick.C:
				p.write(w, now)
			}
		}
	}()
	return p
}

func (p *Progress) write(w io.Writer, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.tasks {
		fmt.Fprintf(w, "%s: %s\n", t.name, t.text(now))
	}
}

// A task is work whose progress is written in lines.
type task struct {
	name    string
	started time.Time
	counts  bool // its numbers are files, not bytes
	done    atomic.Int64
	total   atomic.Int64
	state   atomic.Pointer[string] // of State, in place of numbers
}

func (p *Progress) begin(name string, total int64, files bool) *task {
	t := &task{name: name, started: time.Now(), counts: files}
	t.total.Store(total)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tasks = append(p.tasks, t)
	return t
}

func (p *Progress) end(t *task) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tasks = slices.DeleteFunc(p.tasks, func(other *task) bool { return other == t })
}

func (t *task) text(now time.Time) string {
	if state := t.state.Load(); state != nil {
		return fmt.Sprintf("%s, %s", *state, now.Sub(t.started).Round(time.Second))
	}
	if t.counts {
		return fmt.Sprintf("%d of %d", t.done.Load(), t.total.Load())
	}
	return ProgressText(t.done.Load(), t.total.Load(), now.Sub(t.started))
}

// ProgressText returns the progress of work that has done some of total bytes in a time, such as
// "25%, 1.0 MiB of 4.0 MiB, 512 KiB/s, 6s left".
func ProgressText(done, total int64, took time.Duration) string {
	s := fmt.Sprintf("%d%%, %s of %s", percent(done, total), humanize.IBytes(uint64(done)), humanize.IBytes(uint64(total)))
	seconds := took.Seconds()
	if done <= 0 || seconds <= 0 {
		return s
	}
	rate := float64(done) / seconds
	s += fmt.Sprintf(", %s/s", humanize.IBytes(uint64(rate)))
	if done < total {
		left := time.Duration(float64(total-done) / rate * float64(time.Second))
		s += fmt.Sprintf(", %s left", left.Round(time.Second))
	}
	return s
}

func percent(done, total int64) int64 {
	if total <= 0 {
		return 100
	}
	return min(100, done*100/total)
}

// Watch returns a reader that shows the progress of reading r: bytes, rate, time left and, if Known
// is called, the share that was stored already. Closing it ends the display.
func (p *Progress) Watch(name string, size int64, r io.Reader) *Watched {
	w := &Watched{Reader: r}
	if p.bars == nil {
		w.task = p.begin(name, size, false)
		w.end = func() { p.end(w.task) }
		return w
	}
	w.bar = p.bytesBar(name, size, decor.Any(w.share))
	return w
}

// bytesBar adds a bar with bytes, rate and time left.
func (p *Progress) bytesBar(name string, size int64, more ...decor.Decorator) *mpb.Bar {
	return p.bars.AddBar(size, mpb.PrependDecorators(decor.Name(name+" ")), mpb.AppendDecorators(append([]decor.Decorator{
		decor.CountersKibiByte("% .1f / % .1f, "), decor.AverageSpeed(decor.SizeB1024(0), "% .1f, "),
		decor.AverageETA(decor.ET_STYLE_GO), decor.Name(" left"),
	}, more...)...))
}

// Bytes returns a function to call with the bytes that are done.
func (p *Progress) Bytes(name string) func(done, total int64) {
	return p.counter(name, false, func(total int64) *mpb.Bar { return p.bytesBar(name, total) })
}

// Count returns a function to call with the number of files that are done.
func (p *Progress) Count(name string) func(done, total int) {
	count := p.counter(name, true, func(total int64) *mpb.Bar {
		return p.bars.AddBar(total, mpb.PrependDecorators(decor.Name(name+" ")),
			mpb.AppendDecorators(decor.CountersNoUnit("%d / %d, "), decor.AverageETA(decor.ET_STYLE_GO), decor.Name(" left")))
	})
	return func(done, total int) { count(int64(done), int64(total)) }
}

// counter shows what its result is called with. The first call adds the bar.
func (p *Progress) counter(name string, files bool, add func(total int64) *mpb.Bar) func(done, total int64) {
	if p.bars == nil {
		t := p.begin(name, 0, files)
		return func(done, total int64) {
			t.done.Store(done)
			t.total.Store(total)
		}
	}
	var bar *mpb.Bar
	return func(done, total int64) {
		if bar == nil {
			bar = add(total)
		}
		bar.SetCurrent(done)
	}
}

// State shows work that has no size by its state, such as "running", and the time that it takes. It returns a
// function to call with each new state, and one that ends the display; on a terminal the last state stays.
func (p *Progress) State(name, first string) (state func(string), end func()) {
	t := &task{name: name, started: time.Now()}
	t.state.Store(&first)
	state = func(next string) { t.state.Store(&next) }
	if p.bars == nil {
		p.mu.Lock()
		p.tasks = append(p.tasks, t)
		p.mu.Unlock()
		return state, func() { p.end(t) }
	}
	var ended atomic.Pointer[time.Time]
	bar := p.bars.New(1, mpb.NopStyle(), mpb.PrependDecorators(
		decor.Name(name, decor.WCSyncSpaceR),
		decor.Any(func(decor.Statistics) string {
			now := time.Now()
			if at := ended.Load(); at != nil {
				now = *at
			}
			return t.text(now)
		})))
	return state, sync.OnceFunc(func() {
		now := time.Now()
		ended.Store(&now)
		bar.SetCurrent(1)
	})
}

// Close ends all bars and lines. It may be called more than once.
func (p *Progress) Close() {
	if p.stop != nil {
		p.stop()
	}
	if p.bars != nil {
		p.timer.Stop()
		p.bars.Shutdown()
	}
}

// A Watched is a reader with a progress display.
type Watched struct {
	io.Reader
	bar    *mpb.Bar // nil without a terminal
	task   *task    // nil on a terminal
	end    func()   // of the task
	stored atomic.Int64
}

// Read reads and advances the display.
func (w *Watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if w.bar != nil {
		w.bar.IncrBy(n)
	} else {
		w.task.done.Add(int64(n))
	}
	return n, err
}

// Known adds n bytes that were stored already.
func (w *Watched) Known(n int64) { w.stored.Add(n) }

func (w *Watched) share(s decor.Statistics) string {
	known := w.stored.Load()
	if known == 0 || s.Current == 0 {
		return ""
	}
	return fmt.Sprintf(", %d%% stored already", percent(known, s.Current))
}

// Close ends the display.
func (w *Watched) Close() error {
	if w.bar != nil {
		w.bar.Abort(false) // no effect on a bar that is complete
	} else {
		w.end()
	}
	return nil
}
