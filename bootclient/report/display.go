package report

import (
	"fmt"
	"io"
	"time"
)

// A Level says how a line is shown.
type Level int

// The levels.
const (
	Info    Level = iota // anything that is not one of the others
	OK                   // the result of a step
	Warning              // a person should notice it; the boot continues
	Failed               // a step that was needed has failed
	Busy                 // progress: the next line may replace it
)

// A Line is one line of a report. It is printable.
type Line struct {
	At    time.Duration // since the start of the report
	Step  string        // the step that ended, "" for none
	Level Level
	Text  string // with the name of the step
}

// String is the line with its time, as consoles and logs show it.
func (l Line) String() string { return fmt.Sprintf("[%7.3fs] %s", l.At.Seconds(), l.Text) }

// A Display shows a report while it is made. The report calls it under its lock, so that the order is
// right; a method must not call the report.
type Display interface {
	Begin(at time.Duration, step string) // a step begins
	Line(Line)
}

// displayOf returns a console as a Display: itself, if it is one.
func displayOf(console io.Writer) Display {
	if d, ok := console.(Display); ok || console == nil {
		return d
	}
	return plain{console}
}

// plain prints the lines and nothing else.
type plain struct{ w io.Writer }

func (plain) Begin(time.Duration, string) {}

func (p plain) Line(l Line) { fmt.Fprintf(p.w, "%s\n", l) }
