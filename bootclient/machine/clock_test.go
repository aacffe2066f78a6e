package machine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestBuildTime(t *testing.T) {
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

func TestAClockAfterTheBuildIsLeftAlone(t *testing.T) {
	now := time.Now()
	words, err := setClock(now.Add(-time.Hour), now)
	if err != nil || !strings.Contains(words, "the RTC says") {
		t.Errorf("%q, %v", words, err)
	}
}
