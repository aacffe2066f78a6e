package admin

import (
	"fmt"
	"html/template"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/phaseboot/phaseboot/internal/refusal"
	"github.com/phaseboot/phaseboot/manifest"
)

// safe makes a text from outside safe to show. The templates put it into an element of its own direction (bdi).
func safe(s string) string { return strings.ToValidUTF8(refusal.Printable(s), "?") }

// short is the beginning of a key, a CID or a hash.
func short(s string) string {
	const digits = 16
	if len(s) > digits {
		return s[:digits] + "…"
	}
	return s
}

// bytesText writes a number of bytes.
func bytesText(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// duration writes a duration for a table.
func duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// around says how far a moment is from now.
func around(t, now time.Time) string {
	switch d := t.Sub(now); {
	case d >= time.Second:
		return "in " + duration(d)
	case d <= -time.Second:
		return duration(-d) + " ago"
	}
	return "now"
}

// when is the element of a date: the moment, and how far it is from now. The zero time is a dash.
func when(t, now time.Time) template.HTML {
	if t.IsZero() || t.Unix() <= 0 {
		return `<span class="none">–</span>`
	}
	t = t.UTC()
	return template.HTML(fmt.Sprintf(`<time datetime="%s">%s</time> <span class="ago">%s</span>`, // digits and words of ours
		t.Format(time.RFC3339), t.Format("2006-01-02 15:04:05"), around(t, now)))
}

// othersWords says which of the machines that do not take the newest release take an earlier one.
func othersWords(o *manifest.Rollout) string {
	if rest, ok := strings.CutPrefix(o.Words(), "every machine"); ok {
		return "every other machine" + rest
	}
	return "of the other machines: " + o.Words()
}
