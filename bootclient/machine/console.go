package machine

import (
	"fmt"
	"io"
	"log/slog"
	"os"
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

// takeConsole makes /dev/console the process's stdin, stdout and stderr.
func takeConsole() error {
	f, err := os.OpenFile("/dev/console", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("console: %w", err)
	}
	defer f.Close()
	for fd := range 3 {
		if err := unix.Dup3(int(f.Fd()), fd, 0); err != nil {
			return fmt.Errorf("console: %w", err)
		}
	}
	return nil
}

// drainConsole waits until the last line has left the serial port: the jump
// would cut it off.
func drainConsole() { _ = unix.IoctlSetInt(1, unix.TCSBRK, 1) }

// activeTerminal is the terminal behind /dev/console, which can be a shell's
// controlling terminal where /dev/console cannot.
func activeTerminal() string {
	data, err := os.ReadFile("/sys/class/tty/console/active")
	names := strings.Fields(string(data))
	if err != nil || len(names) == 0 {
		return "/dev/console"
	}
	name := names[len(names)-1]
	if name == "tty0" {
		if vt, err := os.ReadFile("/sys/class/tty/tty0/active"); err == nil {
			name = strings.TrimSpace(string(vt))
		}
	}
	return "/dev/" + name
}
