package window

import (
	"errors"
	"io/fs"
	"testing"
	"time"
	_ "time/tzdata"
)

func TestAWindowIsOpenAtItsTimes(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	at := func(day, hour, minute int, zone *time.Location) time.Time {
		return time.Date(2026, 11, day, hour, minute, 0, 0, zone) // 1 November 2026 is a Sunday
	}
	for _, test := range []struct {
		window string
		t      time.Time
		open   bool
	}{
		{"always", at(1, 0, 0, time.UTC), true},
		{"Mon-Fri 02:00-05:00", at(1, 3, 0, time.UTC), false},
		{"Mon-Fri 02:00-05:00", at(2, 1, 59, time.UTC), false},
		{"Mon-Fri 02:00-05:00", at(2, 2, 0, time.UTC), true},
		{"Mon-Fri,02:00-05:00", at(6, 4, 59, time.UTC), true},
		{"Mon-Fri 02:00-05:00", at(6, 5, 0, time.UTC), false},
		{"sat-mon", at(2, 23, 59, time.UTC), true},
		{"sat-mon", at(3, 0, 0, time.UTC), false},
		{"Mon,Wed 02:00-03:00,13:00-14:00", at(4, 13, 30, time.UTC), true},
		{"Mon,Wed 02:00-03:00,13:00-14:00", at(3, 13, 30, time.UTC), false},
		{"Fri 22:00-04:00", at(6, 23, 0, time.UTC), true},
		{"Fri 22:00-04:00", at(7, 3, 59, time.UTC), true},
		{"Fri 22:00-04:00", at(6, 3, 59, time.UTC), false},
		{"Fri 22:00-04:00", at(7, 4, 0, time.UTC), false},
		{"Fri 22:00-00:00", at(7, 0, 0, time.UTC), false},
		{"22:00-24:00", at(7, 23, 59, time.UTC), true},
		{"02:00-03:00 UTC", at(2, 3, 30, berlin), true},
		{"02:00-03:00", at(2, 3, 30, berlin), false},
		{"Sun 02:00-03:00", time.Date(2026, 3, 22, 3, 0, 0, 0, berlin), false}, // the clock has no such hour on the next Sunday
	} {
		w, err := Parse(test.window)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.Open(test.t); got != test.open {
			t.Errorf("%q at %s: %t", test.window, test.t.Format("Mon 15:04 MST"), got)
		}
		if next := w.Next(test.t); !w.Open(next) || test.open != next.Equal(test.t) || next.Add(-time.Minute).After(test.t) && w.Open(next.Add(-time.Minute)) {
			t.Errorf("%q after %s: next is %s", test.window, test.t.Format("Mon 15:04"), next.Format("Mon 15:04"))
		}
	}
}

func TestAWindowThatIsNoneIsRefused(t *testing.T) {
	for _, s := range []string{"", " ", "UTC", "Mon-", "Monday", "Mon..Fri", "2:00-3:00", "02:00", "02:00-02:00", "24:00-01:00", "02:00-25:00", "02:60-03:00", "02:00-03:00 CET", "always Mon", "-", "Mon UTC Tue", "+2:00-03:00"} {
		if w, err := Parse(s); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %+v, %v", s, w, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("Mon-Fri 02:00-05:00 UTC")
	f.Fuzz(func(t *testing.T, s string) {
		if w, err := Parse(s); err == nil {
			w.Next(time.Unix(1e9, 0))
		}
	})
}
