package window

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/internal/refusal"
)

const day = 24 * 60 // minutes

// A Window is a set of times of the week. The zero Window is always open.
type Window struct {
	days  [7]bool // by time.Weekday, on which a span begins
	spans []span  // none: always
	utc   bool
}

// A span is a part of a day, in minutes after midnight. If to is not after from, it ends on the next day.
type span struct{ from, to int }

var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// Parse reads a window: "always", or days and times such as "Mon-Fri 02:00-05:00", "Sat,Sun", "22:00-04:00 UTC". Without
// days it is every day, without times the whole day. A span over midnight belongs to the day on which it begins. A comma is
// as good as a space, so that a kernel argument can have one. The error wraps fs.ErrInvalid.
func Parse(s string) (Window, error) {
	var w Window
	words := strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return r == ' ' || r == ',' })
	if slices.Equal(words, []string{"always"}) {
		return w, nil
	}
	for i, word := range words {
		var err error
		switch {
		case word == "utc" && i > 0 && i == len(words)-1:
			w.utc = true
		case strings.Contains(word, ":"):
			err = w.addSpan(word)
		default:
			err = w.addDays(word)
		}
		if err != nil {
			return Window{}, err
		}
	}
	if w.days == [7]bool{} && w.spans == nil {
		return Window{}, refusal.Invalid("window %.80q: empty; write one like \"Mon-Fri 02:00-05:00\", or always", s)
	}
	if w.days == [7]bool{} {
		w.days = [7]bool{true, true, true, true, true, true, true}
	}
	if w.spans == nil {
		w.spans = []span{{0, day}}
	}
	return w, nil
}

// addDays adds a day, or days from one to another, such as Sat-Mon.
func (w *Window) addDays(word string) error {
	first, last, ranged := strings.Cut(word, "-")
	if !ranged {
		last = first
	}
	from, to := slices.Index(dayNames, first), slices.Index(dayNames, last)
	if from < 0 || to < 0 {
		return refusal.Invalid("window: %.40q: neither a day (Mon, Tue, Wed, Thu, Fri, Sat, Sun) nor times (02:00-05:00)", word)
	}
	for d := from; ; d = (d + 1) % 7 {
		w.days[d] = true
		if d == to {
			return nil
		}
	}
}

// addSpan adds times of a day.
func (w *Window) addSpan(word string) error {
	first, last, _ := strings.Cut(word, "-")
	from, okFrom := minutes(first)
	to, okTo := minutes(last)
	if !okFrom || !okTo || from == day || from == to {
		return refusal.Invalid("window: %.40q: invalid times; write them like 02:00-05:00, up to 24:00", word)
	}
	w.spans = append(w.spans, span{from, to})
	return nil
}

// minutes reads HH:MM.
func minutes(s string) (int, bool) {
	hours, mins, _ := strings.Cut(s, ":")
	h, errH := strconv.ParseUint(hours, 10, 8)
	m, errM := strconv.ParseUint(mins, 10, 8)
	n := int(h)*60 + int(m)
	return n, errH == nil && errM == nil && len(hours) == 2 && len(mins) == 2 && m < 60 && n <= day
}

// Open reports whether t is in the window.
func (w Window) Open(t time.Time) bool {
	if w.spans == nil {
		return true
	}
	if w.utc {
		t = t.UTC()
	}
	at, today := t.Hour()*60+t.Minute(), t.Weekday()
	yesterday := (today + 6) % 7
	return slices.ContainsFunc(w.spans, func(s span) bool {
		if s.from < s.to {
			return w.days[today] && s.from <= at && at < s.to
		}
		return w.days[today] && at >= s.from || w.days[yesterday] && at < s.to
	})
}

// Next returns the first minute from t on that is in the window: t itself if the window is open.
func (w Window) Next(t time.Time) time.Time {
	if w.Open(t) {
		return t
	}
	next := t.Truncate(time.Minute)
	for range 15 * day { // a clock change may take the span of one week away
		if next = next.Add(time.Minute); w.Open(next) {
			break
		}
	}
	return next
}
