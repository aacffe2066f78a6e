package limit

import (
	"context"
	"log/slog"
	"time"

	"github.com/hashicorp/golang-lru/v2"
)

const (
	repeatAfter = time.Hour // before the same error is logged again
	maxLogged   = 1024      // errors that are remembered
)

// hourly is the slog.Handler of OnceAnHour.
type hourly struct {
	slog.Handler
	logged *lru.Cache[string, time.Time] // when each error was logged last
}

// OnceAnHour returns a logger that logs the same error at most once an hour, however often
// clients ask for a damaged block. Errors are the same if their message and their cause are.
func OnceAnHour(log *slog.Logger) *slog.Logger {
	logged, _ := lru.New[string, time.Time](maxLogged) // an error only for a size below 1
	return slog.New(hourly{log.Handler(), logged})
}

// Handle drops an error that was logged within the last hour and passes on all other records.
func (h hourly) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		text := errorText(r)
		last, known, _ := h.logged.PeekOrAdd(text, r.Time)
		if known && r.Time.Sub(last) < repeatAfter {
			return nil
		}
		h.logged.Add(text, r.Time)
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
