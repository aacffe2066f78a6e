package imagebuild

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// patience is how long a step may last in silence, and refresh how often it then says
// that it still works.
const (
	patience = 2 * time.Second
	refresh  = 10 * time.Second
)

// progress tells a person what takes long. A step shorter than patience stays silent.
type progress struct {
	mu sync.Mutex
	w  io.Writer
}

// say prints one line at once.
func (p *progress) say(format string, args ...any) {
	if p.w == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.w, format+"\n", args...)
}

// step starts one step; the caller calls the function that it returns when it is over.
func (p *progress) step(name string) (done func()) {
	start := time.Now()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		timer := time.NewTimer(patience)
		defer timer.Stop()
		shown := false
		for {
			select {
			case <-timer.C:
				p.say("%s … %s", name, since(start))
				shown = true
				timer.Reset(refresh)
			case <-stop:
				if shown {
					p.say("%s: done in %s", name, since(start))
				}
				return
			}
		}
	}()
	return func() { close(stop); <-stopped }
}

func since(t time.Time) time.Duration { return time.Since(t).Round(100 * time.Millisecond) }
