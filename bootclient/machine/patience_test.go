package machine

import (
	"os"
	"regexp"
	"testing"
	"time"
)

func TestTheDocumentedWaitsAreTheRealOnes(t *testing.T) {
	text, err := os.ReadFile("../../docs/PATIENCE.md")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]time.Duration{
		"firstPause": firstPause, "maxPause": maxPause, "firstHurry": firstHurry, "searchRound": searchRound, "roundPause": roundPause,
		"roundMaxPause": roundMaxPause, "shellInUse": shellInUse, "maxSilence": maxSilence, "attemptLimit": attemptLimit,
		"bootWatchdog": bootWatchdog, "targetWatchdog": targetWatchdog,
		"torPatience": torPatience,
	}
	for _, row := range regexp.MustCompile("(?m)^\\| (\\w+) \\| `(\\w+)` \\|").FindAllStringSubmatch(string(text), -1) {
		if d, err := time.ParseDuration(row[1]); err != nil || d != want[row[2]] {
			t.Errorf("%s: the document says %s, the code %s", row[2], row[1], want[row[2]])
		}
		delete(want, row[2])
	}
	if len(want) > 0 {
		t.Errorf("not in the document: %v", want)
	}
}
