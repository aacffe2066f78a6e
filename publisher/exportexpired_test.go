package publisher

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/manifest"
)

// Of two channels one has expired: the mirror gets the other, and the error tells cron.
func TestExportTellsOfAChannelThatMachinesRefuse(t *testing.T) {
	t.Parallel()
	w, c := newWorld(t), newClock()
	w.lives(c.start, map[string]time.Duration{"edge-x86_64": 40 * day}, "stable", "edge")
	o := w.exportOptions()
	o.Now = c.now
	if before := w.export(o); before.Err() != nil || len(before.Releases) != 2 {
		t.Errorf("before the end: %+v, %v", before.Releases, before.Err())
	}
	c.set(40 * day)
	after := w.export(o)
	if !errors.Is(after.Err(), manifest.ErrExpired) || !strings.Contains(after.LeftOut, "edge-x86_64.json version 1") || len(after.Releases) != 1 {
		t.Errorf("after it: %+v, %v", after.Releases, after.Err())
	}
	if _, err := os.Stat(w.path("mirror/metadata/timestamp.json")); err != nil {
		t.Error(err)
	}
}
