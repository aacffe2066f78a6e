package watch

import (
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/internal/window"
)

// The round for a release that waits begins in the window, however short it is.
func TestARoundBeginsInAShortWindow(t *testing.T) {
	times, err := window.Parse("02:00-02:01 UTC")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 2, 1, 50, 30, 0, time.UTC)
	w := &Watcher{Window: times, Every: Every, now: func() time.Time { return now }}
	for range 200 {
		if at := now.Add(w.pause(Status{State: bootclient.Waiting})); !times.Open(at) {
			t.Fatalf("at %s", at)
		}
	}
}
