package main

import (
	"testing"
	"time"
)

func TestDurationFlagsAcceptDays(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"30d": 720 * time.Hour, "12h": 12 * time.Hour, "1h30m": 90 * time.Minute, "36500d": 876000 * time.Hour,
		"": 0, "30": 0, "0d": 0, "-1d": 0, "30s": 0, "1.5d": 0, "36501d": 0, "99999999999d": 0, "soon": 0,
	} {
		var s span
		err := s.Set(text)
		if (err == nil) != (want > 0) || time.Duration(s) != want {
			t.Errorf("%q: got %v, %v; want %v", text, time.Duration(s), err, want)
		}
	}
}
