package report

import (
	"strings"
	"testing"
)

func TestTextFromOutsideIsMadeSafeForAConsole(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                  "plain",
		"two\nlines":             "two lines",
		"\x1b[31mred\x1b[0m":     "?[31mred?[0m",
		"rtl \u202Ereversed":     "rtl ?reversed",
		"bell\a, nul\x00, tab\t": "bell?, nul?, tab ",
	} {
		if got := Clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
	if got := Clean(strings.Repeat("ä", 1000)); len(got) > maxWords+4 {
		t.Errorf("%d bytes", len(got))
	}
}
