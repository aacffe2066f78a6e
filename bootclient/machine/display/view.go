package display

import (
	"fmt"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/report"
)

// A Form is how a boot is shown.
type Form int

// The forms.
const (
	Lines      Form = iota // lines, progress in place, colours on a screen
	Full                   // a full-screen view on screens, Lines elsewhere
	PlainLines             // lines only
)

const (
	recordEvery = 30 * time.Second // a line of progress is kept so often
	plainEvery  = 10 * time.Second // … where none is rewritten
)

// FormOf returns the form that a value of phase.screen= names; that of "" and of an unknown one is Lines.
func FormOf(value string) Form {
	switch value {
	case "full":
		return Full
	case "plain":
		return PlainLines
	}
	return Lines
}

// A View draws a boot on one terminal. Each method returns what to print there.
type View struct {
	Form          Form
	Screen        bool // a virtual terminal of Linux: VT100 sequences and 16 colours
	Width, Height int  // 0 is 80 and 24

	live     string        // the line that is rewritten, as it is on the terminal
	recorded time.Duration // when the last line was kept
	page     *page         // nil if the full-screen view is not shown
}

// Line shows an event, if it is a line that stays.
func (v *View) Line(e Event) string {
	if !e.IsLine() {
		return ""
	}
	v.recorded = max(v.recorded, time.Duration(e.At)*time.Millisecond)
	text := e.String()
	switch {
	case v.page != nil && e.Level == report.OK:
		return "" // the view shows it
	case v.page != nil:
		return v.coloured(e) + "\n"
	case v.live == "":
		return v.coloured(e) + "\n"
	case v.Screen:
		v.live = ""
		return "\r\x1b[K" + v.coloured(e) + "\n"
	}
	n := len(v.live)
	v.live = ""
	return fmt.Sprintf("\r%-*s\n", n, text)
}

// Tick shows what goes on at a time. The caller calls it every second.
func (v *View) Tick(b *Boot, now time.Duration) string {
	if v.page != nil {
		return v.page.draw(v, b, now)
	}
	text := b.now(now)
	if text == "" {
		return ""
	}
	line := ascii(v.cut(fmt.Sprintf("[%7.3fs] %s", now.Seconds(), text)))
	every := recordEvery
	if v.Form == PlainLines {
		every = plainEvery
	}
	record := now-v.recorded >= every
	if record {
		v.recorded = now
	}
	switch before := v.live; {
	case v.Form == PlainLines && !record:
		return ""
	case v.Form == PlainLines:
		return line + "\n"
	case record && before == "":
		return line + "\n"
	case record:
		v.live = ""
		return v.over(before, line) + "\n"
	default:
		v.live = line
		return v.over(before, line)
	}
}

// over returns what replaces a line by another one.
func (v *View) over(before, line string) string {
	if v.Screen {
		return "\r" + line + "\x1b[K"
	}
	return fmt.Sprintf("\r%-*s", len(before), line)
}

// Leave ends the line that is rewritten, or the full-screen view: it prints the last lines of the boot.
// The caller calls it before others print on the terminal.
func (v *View) Leave(b *Boot) string {
	if v.page != nil {
		return v.leavePage(b)
	}
	n := len(v.live)
	v.live = ""
	switch {
	case n == 0:
		return ""
	case v.Screen:
		return "\r\x1b[K"
	}
	return "\r" + strings.Repeat(" ", n) + "\r"
}

// Colours are bold, which is bright on a screen of Linux: the plain ones are hard to read on black.
const (
	green  = "\x1b[1;32m"
	yellow = "\x1b[1;33m"
	red    = "\x1b[1;31m"
	white  = "\x1b[1m"
	normal = "\x1b[0m"
)

// coloured returns the line of an event. The words say the same without the colours.
func (v *View) coloured(e Event) string {
	text := e.String()
	if !v.Screen || v.Form == PlainLines {
		return text
	}
	switch e.Level {
	case report.OK:
		if before, after, ok := strings.Cut(text, "] "+e.Step+": "); ok {
			return before + "] " + green + e.Step + normal + ": " + after
		}
	case report.Warning:
		return yellow + text + normal
	case report.Failed:
		return red + text + normal
	}
	return text
}

func (v *View) width() int {
	if v.Width < 20 {
		return 80
	}
	return v.Width
}

// cut limits a text to one row. The last column stays free: some terminals begin a new row there.
func (v *View) cut(text string) string { return cutTo(text, v.width()-1) }

// cutTo limits a text to some columns.
func cutTo(text string, columns int) string {
	if r := []rune(text); len(r) > columns {
		return string(r[:max(columns-1, 0)]) + "~"
	}
	return text
}

// ascii replaces characters whose width on a terminal is not known.
func ascii(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '…':
			return '~'
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, text)
}
