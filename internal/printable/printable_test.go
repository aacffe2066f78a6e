package printable

import "testing"

func TestLineHasOnlyPrintableCharacters(t *testing.T) {
	for s, want := range map[string]string{
		"plain text, ä and 日本":                    "plain text, ä and 日本",
		"two\nlines\tand a tab":                   "two lines and a tab",
		"clear \x1b[2J, bell \x07, NUL \x00":      "clear ?[2J, bell ?, NUL ?",
		"right-to-left \u202e, zero width \u200b": "right-to-left ?, zero width ?",
		"C1 \u0085, DEL \x7f, BOM \ufeff":         "C1 ?, DEL ?, BOM ?",
	} {
		if got := Line(s); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
}
