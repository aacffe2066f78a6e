package publisher

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/manifest"
)

// A machine that remembers what it has verified.
type machine struct {
	w      *world
	policy manifest.Policy
}

func (w *world) machine(clock, floor time.Time) machine {
	w.t.Helper()
	state, err := manifest.OpenState(w.t.TempDir())
	check(w.t, err)
	return machine{w, manifest.Policy{Root: w.read("repo/1.root.json"), Channel: "stable", Arch: "x86_64", State: state, Now: clock, Floor: floor}}
}

func (m machine) boots(want string) {
	m.w.t.Helper()
	v, err := manifest.Verify(m.w.t.Context(), manifest.DirFetcher(m.w.repo()), m.policy)
	if err != nil || v.Release().Version != want {
		m.w.t.Errorf("a machine whose clock says %s: %v, want release %s", date(m.policy.Now), err, want)
	}
}

// The publisher's clock is 20 days ahead for one renewal and is put right. Everybody is told,
// and machines that booted in between accept the next release.
func TestAttackPublisherClockAheadHeals(t *testing.T) {
	t.Parallel()
	w, right, wrong := newWorld(t), newClock(), newClock()
	w.add(w.sign(1, "v1", w.release))
	wrong.set(20 * day)
	_, stop := w.monitored(wrong) // started with that clock: it cannot know better, and says so
	stop()
	if said := wrong.String(); !strings.Contains(said, `level=WARN msg="the clock is doubtful" cause="clock: it is `) || !strings.Contains(said, " days ago (") {
		t.Errorf("the log says %s", said)
	}
	machines := []machine{
		w.machine(right.now(), right.now().Add(-90*day)),                   // its clock is right
		w.machine(time.Unix(0, 0), right.now().Add(-90*day)),               // it has none
		w.machine(right.now().Add(-8*time.Hour), right.now().Add(-90*day)), // it shows local time
	}
	for _, m := range machines {
		m.boots("v1")
	}

	r, _ := w.monitored(right)
	const why = "and the published timestamp was signed at "
	said := w.says(right, r)
	if said.code != http.StatusServiceUnavailable || !strings.Contains(said.words, why) || !strings.Contains(said.status.Clock, why) || !errors.Is(said.status.Err(), manifest.ErrUntrusted) {
		t.Errorf("with the right clock healthz says %d %s, status %v", said.code, said.words, said.status.Err())
	}
	if said.status.Refused != "" {
		t.Errorf("machines refuse: %s", said.status.Refused)
	}
	o := w.statusOptions()
	if o.IgnoreClock = true; readStatus(t, o).Err() != nil {
		t.Error("--ignore-clock is no use")
	}
	opts := w.options(w.sign(2, "v2", w.release))
	before := snapshotOf(t, w.repo())
	if _, err := Add(t.Context(), opts); !errors.Is(err, errClock) || !strings.Contains(err.Error(), "--ignore-clock") {
		t.Errorf("add: %v", err)
	}
	unchanged(t, before, snapshotOf(t, w.repo()))
	opts.IgnoreClock = true
	added, err := Add(t.Context(), opts)
	if check(t, err); added.Timestamp != 3 {
		t.Errorf("timestamp %d", added.Timestamp)
	}
	for _, m := range append(machines, w.machine(right.now(), right.now())) {
		m.boots("v2")
	}
}

func readStatus(t *testing.T, o StatusOptions) Status {
	t.Helper()
	s, err := ReadStatus(t.Context(), o)
	check(t, err)
	return s
}

// A clock that is set ahead while a daemon runs signs nothing.
func TestServeSignsNothingWithAClockThatWasSetAhead(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		ignore bool
		slept  time.Duration // the machine was off for so long: its uptime says so
		signs  bool
	}{
		{"20 days ahead", false, 0, false},
		{"20 days ahead, and the operator insists", true, 0, true},
		{"20 days of sleep", false, 20 * day, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w, c, up := newWorld(t), newClock(), newClock()
			w.add(w.sign(1, "v1", w.release))
			opts := w.serveOptions()
			opts.DHT, opts.Metrics, opts.Log, opts.Now, opts.Uptime, opts.IgnoreClock = DHTOff, "127.0.0.1:0", c.logger(), c.now, up.up, row.ignore
			r, _ := w.serve(opts)
			up.set(row.slept)
			c.set(20 * day)
			w.look()
			if row.signs {
				eventually(t, "a new timestamp", func() bool { return strings.Contains(c.String(), "timestamp signed again") })
				return
			}
			const why = "clock: it was set 20 days ahead while this daemon ran"
			eventually(t, "a word in the log", func() bool { return strings.Contains(c.String(), why) })
			if code, said := get(t, r.Metrics[0]+"/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(said, why) {
				t.Errorf("healthz says %d %s", code, said)
			}
			c.set(time.Minute)
			w.look()
			eventually(t, "a healthy daemon", func() bool { code, _ := get(t, r.Metrics[0]+"/healthz"); return code == http.StatusOK })
			if head, err := ReadHead(t.Context(), w.repo()); err != nil || head.Timestamp != 1 {
				t.Errorf("timestamp %d was signed, %v", head.Timestamp, err)
			}
		})
	}
}

// A thief with the online key dates a timestamp 70 years ahead. After the key was replaced,
// that date counts for nothing.
func TestAttackDateOfAStolenOnlineKeyEndsWithIt(t *testing.T) {
	t.Parallel()
	w, c := newWorld(t), newClock()
	release := w.sign(1, "v1", w.release)
	w.add(release)
	far := c.now().Add(70 * 365 * day)
	w.restamp(far, far.Add(day), far.Add(day), []manifest.File{
		{Role: roleTargets, Version: 1, Data: w.read("repo/1.targets.json")}, {Role: "stable-x86_64", Version: 1, Data: release},
	})
	m := w.machine(c.now(), c.now().Add(-day))
	m.boots("v1")
	w.online = newKey(t)
	w.nextRoot(2, w.root)
	w.add(release)
	m.boots("v1")
	if status := readStatus(t, w.statusOptions()); status.Err() != nil || status.Until.After(c.now().Add(2*day)) {
		t.Errorf("status: %v, accepted until %s", status.Err(), status.Until)
	}
}
