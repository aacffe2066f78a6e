package cli

import (
	"context"
	"io"
	"os"
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

// Watch returns r with a bar; closing it ends the bar wherever it stands.
func (p *Progress) Watch(name string, size int64, r io.Reader) io.ReadCloser {
	if p.bars == nil {
		return io.NopCloser(r)
	}
	bar := p.bars.AddBar(size,
		mpb.PrependDecorators(decor.Name(name+" ")),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f "), decor.AverageSpeed(decor.SizeB1024(0), "% .1f")))
	return &watched{r, bar}
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

type watched struct {
	io.Reader
	bar *mpb.Bar
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	w.bar.IncrBy(n)
	return n, err
}

func (w *watched) Close() error {
	w.bar.Abort(false) // no effect on a bar that is complete
	return nil
}
