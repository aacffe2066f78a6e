package report_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/report"
)

// A long step reports its progress, a short one does not.
func TestALongStepReportsItsProgress(t *testing.T) {
	for name, tt := range map[string]struct {
		takes time.Duration
		want  []string
	}{
		"a moment":     {time.Second, nil},
		"five seconds": {5 * time.Second, []string{"check: 2s so far", "check: 4s so far"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var console strings.Builder
				r := report.New(time.Now(), &console)
				r.While(func(so time.Duration) string { return "check: " + so.String() + " so far" }, func() { time.Sleep(tt.takes) })
				if got := strings.Count(console.String(), "\n"); got != len(tt.want) {
					t.Errorf("%d lines:\n%s", got, console.String())
				}
				for _, want := range tt.want {
					if !strings.Contains(console.String(), want) {
						t.Errorf("no %q in\n%s", want, console.String())
					}
				}
			})
		})
	}
}

// A step has the most memory that was in use while it ran.
func TestAStepHasItsPeakOfMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := report.New(time.Now(), nil)
		var used atomic.Int64
		used.Store(10)
		stop := r.SampleMemory(used.Load)
		small := r.Begin("small")
		time.Sleep(time.Second)
		small.Done("")
		large := r.Begin("large")
		used.Store(50)
		time.Sleep(time.Second)
		used.Store(20)
		time.Sleep(time.Second)
		large.Done("")
		if step, n := r.MemoryPeak(); step != "large" || n != 50 || small.Memory != 10 {
			t.Errorf("got %q %d, and %d for the other step", step, n, small.Memory)
		}
		stop()
	})
}
