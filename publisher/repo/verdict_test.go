package repo_test

import (
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

// The daemon's timer ends at the next change.
func TestTheVerdictKnowsItsNextChange(t *testing.T) {
	w, start := pubtest.New(t), time.Now()
	w.Publish(start, map[string]time.Duration{"root": 40 * pubtest.Day}, "stable")
	r, err := repo.Open(t.Context(), w.Repo())
	pubtest.Check(t, err)
	p, err := r.ReadPointer(t.Context())
	pubtest.Check(t, err)
	at := start
	for _, want := range []time.Duration{30 * pubtest.Day, 40 * pubtest.Day, 300 * pubtest.Day, 300 * pubtest.Day} {
		v, err := r.Verdict(t.Context(), p.Files, at)
		pubtest.Check(t, err)
		next := v.NextChange(at)
		if got := next.Sub(start); got < want-time.Hour || got > want+time.Hour {
			t.Errorf("at %s it changes after %s, want %s", at, got, want)
		}
		if at = next; want == 300*pubtest.Day {
			return
		}
	}
}
