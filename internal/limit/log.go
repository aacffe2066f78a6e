package limit

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	repeatAfter = time.Hour // before the same error is logged again
	maxLogged   = 1024      // errors that are remembered; at this number all are dropped
)

// hourly is the slog.Handler of OnceAnHour.
type hourly struct {
	slog.Handler
	logged *logged
}

// logged remembers when each error was logged last.
type logged struct {
	mu   sync.Mutex
	when map[string]time.Time
}

// OnceAnHour returns a logger that logs the same error at most once an hour, however often
// clients ask for a damaged block. Errors are the same if their message and their cause are.
func OnceAnHour(log *slog.Logger) *slog.Logger {
	return slog.New(hourly{log.Handler(), &logged{when: map[string]time.Time{}}})
}

// Handle drops an error that was logged within the last hour and passes on all other records.
func (h hourly) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError && !h.logged.isNew(errorText(r), r.Time) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler; the new handler shares the memory of logged errors.
func (h hourly) WithAttrs(attrs []slog.Attr) slog.Handler {
	return hourly{h.Handler.WithAttrs(attrs), h.logged}
}

// WithGroup implements slog.Handler as WithAttrs does.
func (h hourly) WithGroup(name string) slog.Handler {
	return hourly{h.Handler.WithGroup(name), h.logged}
}

// errorText returns the message and the cause, which names the block.
func errorText(r slog.Record) string {
	out := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "err" || a.Key == "cause" {
			out += "\x00" + a.Value.String()
		}
		return true
	})
	return out
}

// isNew reports whether an error was not logged within the last hour, and records it if so.
func (l *logged) isNew(text string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if last, ok := l.when[text]; ok && now.Sub(last) < repeatAfter {
		return false
	}
	if len(l.when) >= maxLogged {
		clear(l.when)
	}
	l.when[text] = now
	return true
}
