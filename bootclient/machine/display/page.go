package display

import (
	"fmt"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/report"
)

const (
	minRows    = 16 // of a screen with the full-screen view
	minColumns = 60
	maxTop     = 26               // rows of the view; messages scroll below
	redrawAll  = 10 * time.Second // so that the view gets well if others printed over it
)

// A page is the full-screen view. Its rows are at the top of the screen. The rest is a scroll region
// (DECSTBM), where the cursor stays: messages and the lines of the kernel appear there.
type page struct {
	width, height int
	rows          []string      // on the screen
	drawn         time.Duration // when all of them were drawn last
}

// Enter begins to show what goes on. It shows the full-screen view, if the form and the terminal are right
// for it.
func (v *View) Enter(b *Boot, now time.Duration) string {
	v.recorded = now
	if v.Form != Full || !v.Screen || v.Height < minRows || v.Width < minColumns {
		return ""
	}
	v.live = ""
	v.page = &page{width: v.Width, height: v.Height}
	top := v.page.top()
	begin := fmt.Sprintf("\x1b[r\x1b[2J\x1b[%d;%dr\x1b[%d;1H\x1b[?25l", top+1, v.Height, top+1)
	return begin + v.page.draw(v, b, now)
}

// Resize notes a new size of the terminal. It draws the view again if it is shown.
func (v *View) Resize(width, height int, b *Boot, now time.Duration) string {
	if width == v.Width && height == v.Height {
		return ""
	}
	v.Width, v.Height = width, height
	if v.page == nil {
		return ""
	}
	if again := v.Enter(b, now); again != "" {
		return again
	}
	return v.leavePage(b)
}

// leavePage gives the screen back, with the last lines of the boot.
func (v *View) leavePage(b *Boot) string {
	height := v.page.height
	v.page = nil
	var out strings.Builder
	out.WriteString("\x1b[r\x1b[?25h\x1b[2J\x1b[H")
	for _, e := range b.history[max(0, len(b.history)-height+2):] {
		out.WriteString(v.coloured(e) + "\n")
	}
	return out.String()
}

// top returns the rows of the view.
func (p *page) top() int { return min(p.height*3/5, maxTop) }

// sources returns the rows for sources.
func (p *page) sources() int {
	if p.height < 40 {
		return 3
	}
	return 6
}

// draw draws the rows that have changed, and leaves the cursor where it is.
func (p *page) draw(v *View, b *Boot, now time.Duration) string {
	rows := p.compose(b, now)
	all := p.rows == nil || now-p.drawn >= redrawAll
	if all {
		p.drawn = now
	}
	var out strings.Builder
	for i, row := range rows {
		if all || p.rows[i] != row {
			fmt.Fprintf(&out, "\x1b[%d;1H%s\x1b[K", i+1, row)
		}
	}
	p.rows = rows
	if out.Len() == 0 {
		return ""
	}
	return "\x1b7" + out.String() + "\x1b8"
}

// compose returns the rows.
func (p *page) compose(b *Boot, now time.Duration) []string {
	sources := p.sources()
	clock := fmt.Sprintf("%.0f s", now.Seconds())
	rows := []string{white + fmt.Sprintf(" %-*s%s", p.width-len(clock)-3, "Phase Boot", clock) + normal, ""}
	rows = append(rows, p.steps(b, now, p.top()-sources-5)...)
	rows = append(rows, "", p.bar(b, now))
	rows = append(rows, p.sourceRows(b, now, sources)...)
	return append(rows, " "+strings.Repeat("-", p.width-3))
}

// states are the words for how a step ended.
var states = map[report.Level]string{
	report.OK:      green + "  ok  " + normal,
	report.Warning: yellow + " skip " + normal,
	report.Failed:  red + "failed" + normal,
}

// steps returns the rows of the last n steps.
func (p *page) steps(b *Boot, now time.Duration, n int) []string {
	rows := make([]string, 0, n)
	for _, s := range b.steps[max(0, len(b.steps)-n):] {
		state, words := states[s.level], s.words
		if !s.ended {
			state, words = white+"  ..  "+normal, (now - s.at).Truncate(time.Second).String()
		}
		rest := cutTo(ascii(fmt.Sprintf("%-15s %s", s.name, words)), p.width-24)
		rows = append(rows, fmt.Sprintf(" [%7.3fs] [%s] %s", s.at.Seconds(), state, rest))
	}
	for len(rows) < n {
		rows = append(rows, "")
	}
	return rows
}

// bar returns the row with what long work says of itself, or with the progress of the fetch.
func (p *page) bar(b *Boot, now time.Duration) string {
	if b.busy != "" || len(b.samples) == 0 {
		return " " + cutTo(ascii(b.busy), p.width-2)
	}
	last := b.samples[len(b.samples)-1]
	words := b.fetched(now)
	length := max(min(p.width-len(words)-6, 60), 10)
	full := int(last.percent()) * length / 100
	return " [" + green + strings.Repeat("#", full) + normal + strings.Repeat(".", length-full) + "] " + cutTo(ascii(words), p.width-length-6)
}

// sourceRows returns n rows with the sources that sent most.
func (p *page) sourceRows(b *Boot, now time.Duration, n int) []string {
	rows := make([]string, 0, n)
	if len(b.samples) > 0 {
		for _, s := range b.samples[len(b.samples)-1].Sources {
			if len(rows) == n {
				break
			}
			words := report.Bytes(b.rate(now, func(q Progress) int64 { return q.sent(s.Name, s.Kind) })) + "/s"
			if s.Banned {
				words = red + "banned" + normal
			}
			name := cutTo(ascii(s.Name), p.width-45)
			rows = append(rows, fmt.Sprintf("   %-*s %-10s %10s  %s", min(p.width-45, 60), name, cutTo(ascii(s.Kind), 10), report.Bytes(s.Bytes), words))
		}
	}
	for len(rows) < n {
		rows = append(rows, "")
	}
	return rows
}
