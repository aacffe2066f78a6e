package menu

import (
	"fmt"
	"strings"
)

// A View draws a menu on one terminal.
type View struct {
	Screen bool // it understands VT100 sequences
	Width  int  // columns; 0 is 80

	page string   // the list that was drawn
	live string   // the line that is overwritten on a line without sequences
	last []string // the lines that were drawn on a screen
}

// Leave returns what to print before other output. The next Draw draws everything.
func (v *View) Leave() string {
	open := v.live != ""
	v.page, v.live, v.last = "", "", nil
	if open {
		return "\n"
	}
	return ""
}

// Draw returns what to print so that the terminal shows the menu, "" if it does already.
func (v *View) Draw(m *Menu) string {
	if v.Screen {
		return v.drawScreen(m)
	}
	return v.drawLine(m)
}

// drawLine draws on a terminal that may understand no sequences: the list when it changes, and then the
// selected line, which overwrites itself.
func (v *View) drawLine(m *Menu) string {
	var b strings.Builder
	list := m.lines()
	if page := m.title() + "\n" + strings.Join(list, "\n"); page != v.page {
		b.WriteString(v.Leave())
		v.page = page
		fmt.Fprintf(&b, "%s\n", m.title())
		for i, text := range list {
			fmt.Fprintf(&b, "  %d %s\n", number(i), text)
		}
		fmt.Fprintf(&b, "%s\n", m.hint())
	}
	line := v.cut("> " + join(" ", m.choice(), m.countdown(), m.status))
	if line != v.live {
		fmt.Fprintf(&b, "\r%-*s", v.width()-1, line)
		v.live = line
	}
	return b.String()
}

// drawScreen draws all lines, over those that it drew before.
func (v *View) drawScreen(m *Menu) string {
	lines := v.screenLines(m)
	if len(v.last) == len(lines) && strings.Join(v.last, "\n") == strings.Join(lines, "\n") {
		return ""
	}
	var b strings.Builder
	if len(v.last) > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", len(v.last))
	}
	b.WriteString("\r\x1b[J") // clear to the end of the screen
	for _, line := range lines {
		b.WriteString(line + "\n")
	}
	v.last = lines
	return b.String()
}

func (v *View) screenLines(m *Menu) []string {
	at, _ := m.position()
	lines := []string{v.cut(m.title())}
	for i, text := range m.lines() {
		line := v.cut(fmt.Sprintf("  %d %s", number(i), text))
		if i == at {
			line = "\x1b[1m>" + line[1:] + "\x1b[0m"
		}
		lines = append(lines, line)
	}
	lines = append(lines, v.cut(m.hint()))
	if m.asking {
		lines = append(lines, v.cut(m.choice()))
	}
	for _, text := range []string{m.countdown(), m.status} {
		if text != "" {
			lines = append(lines, v.cut("  "+text))
		}
	}
	return lines
}

func (v *View) width() int {
	if v.Width < 20 {
		return 80
	}
	return v.Width
}

// cut limits a text to one row of the terminal. The last column stays free: some terminals begin a new
// row there.
func (v *View) cut(text string) string {
	if r := []rune(text); len(r) > v.width()-1 {
		return string(r[:v.width()-2]) + "~"
	}
	return text
}
