package imagebuild

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// A step writes its first line after quietTime, then one every lineEvery, as internal/cli
// does for the other commands.
const (
	quietTime = 2 * time.Second
	lineEvery = 10 * time.Second
)

// progress writes a line for each step that takes long.
type progress struct {
	mu sync.Mutex
	w  io.Writer
}

func (p *progress) printf(format string, args ...any) {
	if p.w == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.w, format+"\n", args...)
}

// step starts a step. The caller calls done when the step ends.
func (p *progress) step(name string) (done func()) {
	start := time.Now()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		timer := time.NewTimer(quietTime)
		defer timer.Stop()
		shown := false
		for {
			select {
			case <-timer.C:
				p.printf("%s: %s so far", name, since(start))
				shown = true
				timer.Reset(lineEvery)
			case <-stop:
				if shown {
					p.printf("%s: done in %s", name, since(start))
				}
				return
			}
		}
	}()
	return func() { close(stop); <-stopped }
}

func since(t time.Time) time.Duration { return time.Since(t).Round(100 * time.Millisecond) }
