package cli

import "testing"

func TestSizeFlagsTakeSuffixes(t *testing.T) {
	for text, want := range map[string]int64{ // -1: refused
		"0": 0, "1": 1, "1000": 1000, "64K": 64 << 10, "1k": 1 << 10, "64M": 64 << 20, "64m": 64 << 20, "4G": 4 << 30, "1T": 1 << 40,
		"9223372036854775807": 1<<63 - 1,
		"":                    -1, "M": -1, "-1": -1, "-1M": -1, "1.5M": -1, "64MB": -1, "4X": -1, "4 G": -1,
		"9223372036854775808": -1, "9223372036854775807K": -1, "9999999T": -1,
	} {
		var s Size
		err := s.Set(text)
		if (err != nil) != (want < 0) || err == nil && int64(s) != want {
			t.Errorf("%q: got %d, %v; want %d", text, s, err, want)
		}
		if again := Size(0); err == nil && (again.Set(s.String()) != nil || again != s) {
			t.Errorf("%q: shown as %q, which reads as %d", text, s.String(), again)
		}
	}
}
