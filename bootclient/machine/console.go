package machine

import (
	"io"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient"
)

// newStory returns a report whose times count from the start of the kernel and
// whose steps are printed to w as `[  1.234s] step: words`.
func newStory(w io.Writer) *bootclient.Report {
	return bootclient.NewReport(time.Now().Add(-uptime()), w)
}

// uptime is the kernel's own clock, the one that dmesg prints.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// logger returns a logger whose warnings become lines of the story. The story
// has its own clock, so the record's time is left out.
func logger(story *bootclient.Report) *slog.Logger {
	return slog.New(slog.NewTextHandler(lines{story}, &slog.HandlerOptions{
		Level: slog.LevelWarn,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

type lines struct{ story *bootclient.Report }

func (l lines) Write(p []byte) (int, error) {
	l.story.Say("log: %s", p)
	return len(p), nil
}

// printable keeps a terminal safe from what strangers put into names and
// errors: control characters, escapes and bidirectional marks become '?'.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case r < 0x20, r >= 0x7f && r < 0xa0,
			r >= 0x200b && r <= 0x200f, r >= 0x2028 && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0xfeff:
			return '?'
		}
		return r
	}, s)
}
