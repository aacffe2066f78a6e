package limit

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	faultAgain = time.Hour // until the same fault is logged once more
	faultsMost = 1024      // that are remembered; more are forgotten all at once
)

// faults is the handler of such a log.
type faults struct {
	slog.Handler
	said *said
}

type said struct {
	mu   sync.Mutex
	when map[string]time.Time
}

// OnceAnHour returns log, in which an error then stands once an hour, however often strangers
// ask for the block that is damaged. Errors are the same when their words are, and their cause.
func OnceAnHour(log *slog.Logger) *slog.Logger {
	return slog.New(faults{log.Handler(), &said{when: map[string]time.Time{}}})
}

// Handle passes on what is no error, and errors that are new.
func (f faults) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError && !f.said.first(text(r), r.Time) {
		return nil
	}
	return f.Handler.Handle(ctx, r)
}

// WithAttrs and WithGroup keep what was said.
func (f faults) WithAttrs(attrs []slog.Attr) slog.Handler {
	return faults{f.Handler.WithAttrs(attrs), f.said}
}

func (f faults) WithGroup(name string) slog.Handler { return faults{f.Handler.WithGroup(name), f.said} }

// text is the message with the cause, which names the block.
func text(r slog.Record) string {
	out := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "err" || a.Key == "cause" {
			out += "\x00" + a.Value.String()
		}
		return true
	})
	return out
}

func (s *said) first(what string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.when[what]; ok && now.Sub(last) < faultAgain {
		return false
	}
	if len(s.when) >= faultsMost {
		clear(s.when)
	}
	s.when[what] = now
	return true
}
