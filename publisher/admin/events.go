package admin

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	maxFollowers = 64
	heartbeat    = 20 * time.Second // so that a browser and what is on the way keep the connection
	eventPause   = time.Second      // between two events
	eventTimeout = 10 * time.Second // for a browser to take one
	problemsPace = time.Minute      // between two looks at the problems of the publisher, which have no event
)

// events tells the open pages that something has changed.
type events struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced by each change
	number  int
	open    int

	timeout time.Duration // for a browser to take one
	pace    time.Duration // between two looks at the problems
}

func newEvents() *events {
	return &events{changed: make(chan struct{}), timeout: eventTimeout, pace: problemsPace}
}

func (e *events) notify() {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.changed)
	e.changed = make(chan struct{})
	e.number++
}

func (e *events) current() (changed <-chan struct{}, number int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed, e.number
}

// enter counts a page that follows, and reports false if there are too many.
func (e *events) enter() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.open >= maxFollowers {
		return false
	}
	e.open++
	return true
}

func (e *events) leave() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.open--
}

// follow notifies the open pages of each change until ctx ends: a new boot report, a decision, a new head, the
// head of a mirror, and a problem that begins or ends.
func (p *Page) follow(ctx context.Context) {
	var machines <-chan struct{}
	if p.Reports != nil {
		machines = p.Reports.Watch(ctx)
	}
	look := time.NewTicker(p.events.pace)
	defer look.Stop()
	problems := p.problems(ctx)
	for {
		var head <-chan struct{}
		if p.Changed != nil {
			head = p.Changed()
		}
		select {
		case _, ok := <-machines:
			if !ok {
				return
			}
		case <-head:
			p.state.forget()
		case <-look.C:
			last := problems
			if problems = p.problems(ctx); problems == last {
				continue
			}
		case <-p.mirrors.changed:
		case <-ctx.Done():
			return
		}
		p.events.notify()
		if !sleep(ctx, eventPause) {
			return
		}
	}
}

// problems are the problems of the publisher as one text.
func (p *Page) problems(ctx context.Context) string {
	s, err := p.currentState(ctx)
	if err != nil {
		return err.Error()
	}
	return strings.Join(s.Problems, "\n")
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// sendEvents sends an event for each change, as server-sent events (HTML Living Standard, section 9.2). An event says
// only that something has changed: the script reads the view again.
func (p *Page) sendEvents(w http.ResponseWriter, r *http.Request) {
	if !p.events.enter() {
		w.Header().Set("Retry-After", "30")
		http.Error(w, "too many open pages follow changes; close some", http.StatusServiceUnavailable)
		return
	}
	defer p.events.leave()
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	send := func(text string) bool {
		if err := out.SetWriteDeadline(time.Now().Add(p.events.timeout)); err != nil {
			return false
		}
		if _, err := fmt.Fprint(w, text); err != nil || out.Flush() != nil {
			return false
		}
		return out.SetWriteDeadline(time.Time{}) == nil // HTTP/2 resets a stream whose deadline passes, also an idle one
	}
	out.SetReadDeadline(time.Time{}) // the request was read; a deadline would end the connection
	changed, _ := p.events.current()
	if !send("retry: 5000\n\n") {
		return
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		text := ": still here\n\n"
		select {
		case <-changed:
			var number int
			changed, number = p.events.current()
			text = fmt.Sprintf("event: change\ndata: %d\n\n", number)
		case <-beat.C:
		case <-r.Context().Done():
			return
		}
		if !send(text) {
			return
		}
	}
}
