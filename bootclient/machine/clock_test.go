package machine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTheBuildTimeIsReadOrRefused(t *testing.T) {
	for text, want := range map[string]int64{"1700000000\n": 1700000000, "0": 0, "": -1, "-1": -1, "yesterday": -1} {
		file := filepath.Join(t.TempDir(), "build-time")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := buildTime(file)
		if (err != nil) != (want < 0) || err == nil && got.Unix() != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

func TestAnImplausibleClockIsSetToTheBuildTime(t *testing.T) {
	built := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		now, want time.Time
		summary   string
	}{
		"1970":               {time.Unix(0, 0), built, "is before the build of this image; clock set to 2026-11-01"},
		"a second before":    {built.Add(-time.Second), built, "before the build of this image"},
		"at the build":       {built, built, "RTC 2026-11-01"},
		"a year after":       {built.AddDate(1, 0, 0), built.AddDate(1, 0, 0), "RTC 2027-11-01"},
		"twenty years after": {built.AddDate(20, 0, 0), built.AddDate(20, 0, 0), "RTC 2046-11-01"},
		"more than that":     {built.AddDate(20, 0, 1), built, "more than 20 years after the build of this image; clock set to 2026-11-01"},
		"2099":               {time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC), built, "RTC 2099-01-01T00:00:00Z is more than"},
	} {
		at, summary := plausibleTime(built, tt.now)
		if !at.Equal(tt.want) || !strings.Contains(summary, tt.summary) {
			t.Errorf("%s: %v, %q", name, at, summary)
		}
	}
}
