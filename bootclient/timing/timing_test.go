package timing

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

var timingRow = regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (\\w+) \\|")

func TestTheDocumentedTimingsAreTheRealOnes(t *testing.T) {
	text, err := os.ReadFile("../../docs/PATIENCE.md")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]time.Duration{"DefaultTimeout": DefaultTimeout, "DefaultPatience": DefaultPatience}
	fields := reflect.ValueOf(Usual)
	for i := range fields.NumField() {
		name := fields.Type().Field(i).Name
		want[strings.ToLower(name[:1])+name[1:]] = time.Duration(fields.Field(i).Int())
	}
	for _, row := range timingRow.FindAllStringSubmatch(string(text), -1) {
		if d, err := time.ParseDuration(row[2]); err != nil || d != want[row[1]] {
			t.Errorf("%s: the document says %s, the code %s", row[1], row[2], want[row[1]])
		}
		delete(want, row[1])
	}
	if len(want) > 0 {
		t.Errorf("not in the document: %v", want)
	}
}

func TestPausesGrowToTheirLimit(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 100, 1: 200, 5: 3200, 6: 5000, 1000: 5000} {
		if got := Growing(100*time.Millisecond, n, 5*time.Second); got != want*time.Millisecond {
			t.Errorf("pause %d is %s, want %s", n, got, want*time.Millisecond)
		}
	}
}
