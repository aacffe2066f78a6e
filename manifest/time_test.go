package manifest

import (
	"context"
	"maps"
	"testing"
	"time"
)

// A machine whose clock says 1970 takes the time from verified metadata.
func TestAttackClockSetBack(t *testing.T) {
	at := func(days int) time.Time { return today.Add(time.Duration(days) * day) }
	for _, row := range []struct {
		name            string
		stamped, signed int // days from today at which the newest timestamp and release are signed
		next            int // the day at which the release after it is signed, 0 for no other release
		says            string
	}{
		{"known by the remembered timestamp", 5, 0, 0, "timestamp.json version 3: expired on 2026-10-05 12:00:00 UTC, and it is 2026-10-06 12:00:00 UTC (says timestamp.json version 2)"},
		{"known by the release itself", 0, 5, 0, "timestamp.json version 3: expired on 2026-10-05 12:00:00 UTC, and it is 2026-10-06 12:00:00 UTC (says release \"2026.11\")"},
		{"known by the remembered release", 0, 5, 1, "timestamp.json version 3: expired on 2026-10-05 12:00:00 UTC, and it is 2026-10-06 12:00:00 UTC (says the remembered stable-x86_64.json version 2)"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r, dir := newRepo(t), t.TempDir()
			p := r.policy(dir)
			p.Now = time.Unix(0, 0)
			for role := range r.expires {
				r.expires[role] = at(30)
			}
			r.signedAt = at(row.signed)
			f := r.release("stable", "x86_64", "2026.11")
			r.signedAt = at(row.stamped)
			r.publish(f)
			r.part(t, "valid case before", func(t *testing.T) {
				if v := r.boot(r.files, p); !v.now.Equal(at(5)) {
					t.Errorf("reference time %s, want %s", v.now, at(5))
				}
			})
			valid := maps.Clone(r.files)
			// The same keys sign a timestamp that ends before what the state has seen.
			r.expires[roleTimestamp] = at(4)
			r.signedAt = at(row.next)
			if row.next > 0 {
				r.publish(r.release("stable", "x86_64", "2026.12"))
			} else {
				r.stamp(r.online)
			}
			r.part(t, "refused", func(t *testing.T) {
				_, err := Verify(context.Background(), r.files, p)
				refused(t, err, ErrExpired, row.says)
			})
			if row.signed == 0 || row.next > 0 { // a machine without a state accepts it
				r.boot(r.files, Policy{Root: r.root, Channel: "stable", Arch: "x86_64", Now: today})
			}
			r.part(t, "valid case after", func(*testing.T) { r.boot(valid, p) })
		})
	}
}

func TestTimestampOfTheSameVersionDoesNotReplaceTheFirst(t *testing.T) {
	r, dir := newRepo(t), t.TempDir()
	p := r.policy(dir)
	r.boot(r.files, p)
	before := tree(t, dir)
	r.time, r.expires[roleTimestamp] = nil, today.Add(20*day)
	r.stamp(r.online) // version 1 again, with another date
	r.boot(r.files, p)
	if !maps.Equal(before, tree(t, dir)) {
		t.Error("the remembered timestamp was replaced")
	}
	p.Now = today.Add(2 * day)
	_, err := Verify(context.Background(), r.files, p)
	refused(t, err, ErrExpired, "timestamp.json version 1: expired on 2026-10-02")
}

// The publisher's clock is 20 days ahead for one renewal, or an attacker with the online key signs
// such a date. A machine that has verified it accepts timestamps with the right time afterwards.
func TestAttackTimestampFromTheFuture(t *testing.T) {
	at := func(days int) time.Time { return today.Add(time.Duration(days) * day) }
	for _, row := range []struct {
		name  string
		clock time.Time // the machine's
		floor time.Time // its image's
		heals time.Time // date of the next timestamp
		taken bool
	}{
		{"the machine's clock is right", today, at(-90), today.Add(time.Hour), true},
		{"its clock is right and its image new", today, today, today.Add(time.Hour), true},
		{"its clock is ten hours behind", today.Add(-10 * time.Hour), at(-90), today.Add(time.Hour), true},
		{"it has no clock, and its release is newer than its image", at(-90), at(-90), today.Add(time.Hour), false},
		{"it has no clock, and the publisher stays behind its own last date", at(-90), at(-90), at(20), true},
		{"it has no clock and a new image", today, today, today.Add(time.Hour), true},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRepo(t)
			p := r.policy(t.TempDir())
			p.Now, p.Floor = row.clock, row.floor
			r.boot(r.files, p)
			for role := range r.expires {
				r.expires[role] = at(50)
			}
			r.signedAt, r.expires[roleTimestamp] = at(20), at(21)
			r.publish() // snapshot and timestamp
			v := r.boot(r.files, p)
			if limit := row.clock.Add(time.Hour); row.taken && row.heals.Before(at(20)) && v.now.After(limit) {
				t.Errorf("the reference time went to %s, the clock says %s", v.now, row.clock)
			}
			r.signedAt, r.expires[roleTimestamp] = row.heals, row.heals.Add(day)
			r.publish(r.release("stable", "x86_64", "2026.12"))
			_, err := Verify(context.Background(), r.files, p)
			if row.taken && err != nil {
				t.Errorf("the release after it: %v", err)
			} else if !row.taken {
				refused(t, err, ErrExpired, "(says timestamp.json version 2)")
			}
		})
	}
}
