package machine

import (
	"io"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient/machine/display"
	"github.com/phaseboot/phaseboot/bootclient/report"
)

// newReport returns a report whose times count from the start of the kernel and whose steps are
// printed to w as `[  1.234s] step: summary`.
func newReport(w io.Writer) *report.Report {
	return report.New(time.Now().Add(-uptime()), w)
}

// records is the stdout of the boot process: it writes a report as the records that PID 1 shows.
type records struct{ io.Writer }

func (r records) send(e display.Event) { _, _ = r.Write(e.Encode()) }

// Begin sends that a step begins.
func (r records) Begin(at time.Duration, step string) { r.send(display.Began(at, step)) }

// Line sends a line.
func (r records) Line(l report.Line) { r.send(display.LineOf(l)) }

// uptime returns the time since the start of the kernel, as dmesg prints it.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// logger returns a logger that writes warnings and errors as lines of the report. The report
// adds its own time, so the time of the record is left out.
func logger(rep *report.Report) *slog.Logger {
	return slog.New(slog.NewTextHandler(reportLines{rep}, &slog.HandlerOptions{
		Level: slog.LevelWarn,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

// reportLines is an io.Writer that adds what is written to a report, a line for each Write.
type reportLines struct{ rep *report.Report }

func (l reportLines) Write(p []byte) (int, error) {
	l.rep.Warn("log: %s", p)
	return len(p), nil
}
