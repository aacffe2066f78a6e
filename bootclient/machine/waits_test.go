package machine

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/phaseboot/phaseboot/bootclient/machine/menu"
)

// Without a person, the pauses grow, and the machine restarts after the attempts of phase.retry=.
func TestTheWaitsBetweenAttempts(t *testing.T) {
	const nobody, watcher, person = "nobody", "watcher", "person"
	at := func(attempt, countdown, notYet int, atEnd menu.Action) wait {
		return wait{attempt, time.Duration(countdown) * time.Second, time.Duration(notYet) * time.Second, atEnd}
	}
	for name, tt := range map[string]struct {
		restartAfter int
		begun        []string // who begins each following attempt
		want         []wait
	}{
		"for ever": {0, []string{nobody, nobody, nobody, nobody, nobody}, []wait{
			at(1, 60, 0, menu.Retry), at(2, 120, 0, menu.Retry), at(3, 240, 0, menu.Retry), at(4, 480, 0, menu.Retry), at(5, 600, 0, menu.Retry), at(6, 600, 0, menu.Retry),
		}},
		"a restart after two":                            {2, []string{nobody, nobody}, []wait{at(1, 60, 0, menu.Retry), at(2, 120, 0, menu.Reboot), at(3, 240, 0, menu.Reboot)}},
		"a watcher that errs does not put off a restart": {2, []string{watcher, watcher}, []wait{at(1, 60, 0, menu.Retry), at(2, 120, 180, menu.Reboot), at(3, 240, 300, menu.Reboot)}},
		"a restart after the first":                      {1, nil, []wait{at(1, 60, 0, menu.Reboot)}},
		"a person begins anew":                           {2, []string{person, nobody}, []wait{at(1, 60, 0, menu.Retry), at(1, 60, 0, menu.Retry), at(2, 120, 0, menu.Reboot)}},
		"a watcher that errs is slow":                    {0, []string{watcher, watcher, watcher}, []wait{at(1, 60, 0, menu.Retry), at(2, 120, 5, menu.Retry), at(3, 240, 10, menu.Retry), at(4, 480, 20, menu.Retry)}},
		"and quick again later":                          {0, []string{watcher, watcher, nobody}, []wait{at(1, 60, 0, menu.Retry), at(2, 120, 5, menu.Retry), at(3, 240, 10, menu.Retry), at(4, 480, 0, menu.Retry)}},
	} {
		t.Run(name, func(t *testing.T) {
			var w waits
			got := []wait{w.fail(tt.restartAfter)}
			for _, who := range tt.begun {
				w.begin(who == person, who == watcher)
				got = append(got, w.fail(tt.restartAfter))
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(wait{})); diff != "" {
				t.Error(diff)
			}
		})
	}
	var w waits
	for range 100 {
		w.begin(false, true)
		if p := w.fail(0); p.countdown > maxPause || p.notYet > maxPause {
			t.Errorf("%+v", p)
		}
	}
}
