package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// quiet is how long work may take before a bar appears.
const quiet = 2 * time.Second

// A Progress draws one bar on stderr for each file that is being read, once the
// whole has taken two seconds, and nothing when stderr is not a terminal.
type Progress struct {
	bars  *mpb.Progress
	timer *time.Timer
}

// NewProgress starts the clock. Close must be called.
func NewProgress(ctx context.Context) *Progress {
	if !term.IsTerminal(int(os.Stderr.Fd())) {
		return &Progress{}
	}
	show := make(chan struct{})
	return &Progress{
		timer: time.AfterFunc(quiet, func() { close(show) }),
		bars:  mpb.NewWithContext(ctx, mpb.WithOutput(os.Stderr), mpb.WithWidth(40), mpb.WithRenderDelay(show)),
	}
}

// Watch returns r with a bar: bytes, speed and, where Known is told of any, the share
// that was stored already. Closing it ends the bar wherever it stands.
func (p *Progress) Watch(name string, size int64, r io.Reader) *Watched {
	w := &Watched{Reader: r}
	if p.bars != nil {
		w.bar = p.bars.AddBar(size,
			mpb.PrependDecorators(decor.Name(name+" ")),
			mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f "), decor.AverageSpeed(decor.SizeB1024(0), "% .1f"), decor.Any(w.share)))
	}
	return w
}

// Count returns a function that moves a bar of things that are counted.
func (p *Progress) Count(name string) func(done, total int) {
	if p.bars == nil {
		return func(int, int) {}
	}
	var bar *mpb.Bar
	return func(done, total int) {
		if bar == nil {
			bar = p.bars.AddBar(int64(total), mpb.PrependDecorators(decor.Name(name+" ")), mpb.AppendDecorators(decor.CountersNoUnit("%d / %d")))
		}
		bar.SetCurrent(int64(done))
	}
}

// Close ends all bars.
func (p *Progress) Close() {
	if p.bars != nil {
		p.timer.Stop()
		p.bars.Shutdown()
	}
}

// A Watched is a file that is being read.
type Watched struct {
	io.Reader
	bar   *mpb.Bar // nil: nobody looks
	known atomic.Int64
}

// Read reads on and moves the bar.
func (w *Watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if w.bar != nil {
		w.bar.IncrBy(n)
	}
	return n, err
}

// Known counts n more bytes of the file that were stored already.
func (w *Watched) Known(n int64) { w.known.Add(n) }

func (w *Watched) share(s decor.Statistics) string {
	known := w.known.Load()
	if known == 0 || s.Current == 0 {
		return ""
	}
	return fmt.Sprintf(", %d%% stored already", min(100, known*100/s.Current))
}

// Close ends the bar.
func (w *Watched) Close() error {
	if w.bar != nil {
		w.bar.Abort(false) // no effect on a bar that is complete
	}
	return nil
}
