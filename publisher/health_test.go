package publisher

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/ingest"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/repo"
	"github.com/phaseboot/phaseboot/publisher/store"
)

// views are the outputs of monitoring for one repository at one moment.
type views struct {
	status  store.Status
	live    string // of /status
	code    int    // of /healthz
	text    string // of /healthz
	metrics string
}

func (w *world) views(c *setClock, r Ready) (s views) {
	w.T.Helper()
	var err error
	o := w.statusOptions()
	o.Now = c.now
	s.status, err = store.ReadStatus(w.T.Context(), o)
	pubtest.Check(w.T, err)
	s.code, s.text = get(w.T, r.Metrics[0]+"/healthz")
	_, s.live = get(w.T, r.Metrics[0]+"/status")
	_, s.metrics = get(w.T, r.Metrics[0]+"/metrics")
	return s
}

// red checks that all views report that machines refuse a channel, and why.
func (s views) red(t *testing.T, channel string, reason error, why string) {
	t.Helper()
	if err := s.status.Err(); !errors.Is(err, reason) || !strings.Contains(err.Error(), why) {
		t.Errorf("status: %v", err)
	}
	if s.code != http.StatusServiceUnavailable || !strings.Contains(s.text, why) {
		t.Errorf("healthz: %d %s", s.code, s.text)
	}
	var live struct {
		Refused  string
		Healthy  bool
		Problems []string
	}
	pubtest.Check(t, json.Unmarshal([]byte(s.live), &live))
	if live.Healthy || !strings.Contains(live.Refused, why) || !strings.Contains(strings.Join(live.Problems, ""), why) {
		t.Errorf("/status: %s", s.live)
	}
	if !strings.Contains(s.metrics, fmt.Sprintf("phasepublish_accepted{channel=%q} 0\n", channel)) || !strings.Contains(s.metrics, "phasepublish_healthy 0\n") {
		t.Errorf("metrics: %s", s.metrics)
	}
}

// green checks that no view reports a problem.
func (s views) green(t *testing.T, when string) {
	t.Helper()
	if err := s.status.Err(); err != nil {
		t.Errorf("%s: status: %v", when, err)
	}
	if s.code != http.StatusOK {
		t.Errorf("%s: healthz: %d %s", when, s.code, s.text)
	}
	if !strings.Contains(s.live, `"healthy":true`) || !strings.Contains(s.metrics, "phasepublish_healthy 1\n") || strings.Contains(s.metrics, "phasepublish_accepted{channel=\"stable/x86_64\"} 0") {
		t.Errorf("%s: /status: %s\nmetrics: %s", when, s.live, s.metrics)
	}
}

// Each metadata file expires. status, /healthz, /status and the metrics report it; the log
// warns a quarter of its life before, and at the moment; after a restart the daemon still
// serves the files.
func TestMonitoringIsRedWhileMachinesRefuse(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		file     string
		renewed  bool // by the daemon, unless it cannot write
		channel  string
		channels []string
	}{
		{"root", false, "stable/x86_64", []string{"stable"}},
		{"targets", false, "stable/x86_64", []string{"stable"}},
		{"stable-x86_64", false, "stable/x86_64", []string{"stable"}},
		{"snapshot", true, "stable/x86_64", []string{"stable"}},
		{"timestamp", true, "stable/x86_64", []string{"stable"}},
		{"edge-x86_64", false, "edge/x86_64", []string{"stable", "edge"}},
		{"root", false, "edge/x86_64", []string{"stable", "edge"}},
	} {
		t.Run(row.file+" of "+strings.Join(row.channels, " and "), func(t *testing.T) {
			t.Parallel()
			w, c := newWorld(t), newClock()
			w.Publish(c.start, map[string]time.Duration{row.file: 40 * pubtest.Day}, row.channels...)
			r, stop := w.monitored(c)
			c.set(pubtest.Day)
			w.views(c, r).green(t, "after a day")
			if strings.Contains(c.String(), "level=WARN") {
				t.Errorf("a warning: %s", c)
			}

			if row.renewed { // a disk that is read-only: .lock cannot be opened, not even by root
				pubtest.Check(t, os.RemoveAll(w.Path("repo/.lock")))
				pubtest.Check(t, os.Mkdir(w.Path("repo/.lock"), 0o755))
			}
			c.set(30*pubtest.Day + 12*time.Hour)
			w.touch()
			name := row.file + ".json version 1"
			c.Wait(t, 1, `level=WARN msg="metadata file expires soon" cause="`+name+" expires on ")
			late := w.views(c, r)
			if late.status.Err() != nil || !strings.Contains(late.status.Warning, name+" expires on ") {
				t.Errorf("status: %v, warning %q", late.status.Err(), late.status.Warning)
			}
			if row.renewed != (late.code == http.StatusServiceUnavailable) || row.renewed != strings.Contains(late.text, "not writable for this user") {
				t.Errorf("before the end healthz says %d %s", late.code, late.text)
			}

			c.set(40 * pubtest.Day)
			w.touch()
			c.Wait(t, 1, `level=WARN msg="release refused by machines"`, name+" expired on ")
			w.views(c, r).red(t, row.channel, manifest.ErrExpired, name+" expired on ")

			stop()
			again, _ := w.monitored(c)
			w.views(c, again).red(t, row.channel, manifest.ErrExpired, name+" expired on ")
			gw := &gateway.Client{Base: again.HTTP[0]}
			kernel, _ := w.VerifyAt(pubtest.Folder{Source: gw, CID: again.Pointer}, c.start).Release().Artifact("kernel")
			if _, err := cas.Get(t.Context(), gw, kernel.CID); err != nil {
				t.Errorf("after a restart: %v", err)
			}
		})
	}
}

// A new root replaces a key of a running daemon. Machines that know that root refuse what the
// old key signed, or resolve another IPNS name.
func TestMonitoringIsRedWhenARootReplacedAKeyOfTheDaemon(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		replace func(w *world)
		refused bool
		why     string
	}{
		{"the online key", func(w *world) { w.Online = pubtest.NewKey(t) }, true, "root version 2 replaced the online key"},
		{"the IPNS key", func(w *world) { w.IPNS = pubtest.NewKey(t) }, false, "root version 2 does not list the IPNS name"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w, c := newWorld(t), newClock()
			w.Add(w.Sign(1, "v1", w.Release))
			r, _ := w.monitored(c)
			w.views(c, r).green(t, "before")
			row.replace(w)
			w.NextRoot(2, w.Root)
			w.touch()
			c.Wait(t, 1, row.why)
			said := w.views(c, r)
			if said.code != http.StatusServiceUnavailable || !strings.Contains(said.text, row.why) || !strings.Contains(said.metrics, "phasepublish_healthy 0\n") {
				t.Errorf("healthz: %d %s", said.code, said.text)
			}
			if row.refused {
				said.red(t, "stable/x86_64", manifest.ErrSignature, "machines refuse every release: timestamp.json version 1: signed by 0 of 1 required keys")
			}
		})
	}
}

func TestAReadOnlyRepositoryIsReported(t *testing.T) {
	t.Parallel()
	w, c := newWorld(t), newClock()
	w.Add(w.Sign(1, "v1", w.Release))
	pubtest.Check(t, os.RemoveAll(w.Path("repo/.lock")))
	pubtest.Check(t, os.Mkdir(w.Path("repo/.lock"), 0o755)) // cannot be opened, not even by root
	r, _ := w.monitored(c)
	const why = "not writable for this user"
	if said := w.views(c, r); said.code != http.StatusServiceUnavailable || !strings.Contains(said.text, why) {
		t.Errorf("healthz: %d %s", said.code, said.text)
	}
	if !strings.Contains(c.String(), "level=WARN") || !strings.Contains(c.String(), why) {
		t.Errorf("the log: %s", c)
	}
	pubtest.Check(t, os.Remove(w.Path("repo/.lock")))
	w.views(c, r).green(t, "when it can be written")
}

// The publisher's clock is 20 days ahead for one renewal, then it is set right. Every view
// reports it, and machines that booted in between accept the next release.
func TestAttackPublisherClockAheadHeals(t *testing.T) {
	t.Parallel()
	w, right, wrong := newWorld(t), newClock(), newClock()
	w.Add(w.Sign(1, "v1", w.Release))
	wrong.set(20 * pubtest.Day)
	_, stop := w.monitored(wrong) // it starts with that clock, and warns
	stop()
	if said := wrong.String(); !strings.Contains(said, `level=WARN msg="clock in doubt" cause="clock: it is `) || !strings.Contains(said, " days ago (") {
		t.Errorf("the log says %s", said)
	}
	machines := []pubtest.Machine{
		w.Machine(right.now(), right.now().Add(-90*pubtest.Day)),                   // its clock is right
		w.Machine(time.Unix(0, 0), right.now().Add(-90*pubtest.Day)),               // it has none
		w.Machine(right.now().Add(-8*time.Hour), right.now().Add(-90*pubtest.Day)), // it shows local time
	}
	for _, m := range machines {
		m.Boots("v1")
	}

	r, _ := w.monitored(right)
	const why = "and the published timestamp was signed at "
	said := w.views(right, r)
	if said.code != http.StatusServiceUnavailable || !strings.Contains(said.text, why) || !strings.Contains(said.status.Clock, why) || !errors.Is(said.status.Err(), manifest.ErrUntrusted) {
		t.Errorf("with the right clock healthz says %d %s, status %v", said.code, said.text, said.status.Err())
	}
	if said.status.Refused != "" {
		t.Errorf("machines refuse: %s", said.status.Refused)
	}
	o := w.statusOptions()
	if o.IgnoreClock = true; readStatus(t, o).Err() != nil {
		t.Error("--ignore-clock has no effect")
	}
	opts := w.AddOptions(w.Sign(2, "v2", w.Release))
	before := pubtest.FilesOf(t, w.Repo())
	if _, err := ingest.Add(t.Context(), opts); !errors.Is(err, repo.ErrClock) || !strings.Contains(err.Error(), "--ignore-clock") {
		t.Errorf("add: %v", err)
	}
	pubtest.Unchanged(t, before, pubtest.FilesOf(t, w.Repo()))
	opts.IgnoreClock = true
	added, err := ingest.Add(t.Context(), opts)
	if pubtest.Check(t, err); added.Timestamp != 3 {
		t.Errorf("timestamp %d", added.Timestamp)
	}
	for _, m := range append(machines, w.Machine(right.now(), right.now())) {
		m.Boots("v2")
	}
}

func readStatus(t *testing.T, o store.StatusOptions) store.Status {
	t.Helper()
	s, err := store.ReadStatus(t.Context(), o)
	pubtest.Check(t, err)
	return s
}

// A clock that is set ahead while a daemon runs signs nothing.
func TestServeSignsNothingWithAClockThatWasSetAhead(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		ignore bool
		slept  time.Duration // the uptime includes this sleep
		signs  bool
	}{
		{"20 days ahead", false, 0, false},
		{"20 days ahead, and --ignore-clock", true, 0, true},
		{"20 days of sleep", false, 20 * pubtest.Day, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w, c, up := newWorld(t), newClock(), newClock()
			w.Add(w.Sign(1, "v1", w.Release))
			opts := w.serveOptions()
			opts.DHT, opts.Metrics, opts.Log, opts.Now, opts.Uptime, opts.IgnoreClock = DHTOff, "127.0.0.1:0", c.Logger(), c.now, up.up, row.ignore
			r, _ := w.serve(opts)
			up.set(row.slept)
			c.set(20 * pubtest.Day)
			w.touch()
			if row.signs {
				c.Wait(t, 1, `msg="timestamp renewed"`)
				return
			}
			const why = "clock: it was set 20 days ahead while this daemon ran"
			c.Wait(t, 1, why)
			if code, said := get(t, r.Metrics[0]+"/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(said, why) {
				t.Errorf("healthz says %d %s", code, said)
			}
			c.set(time.Minute)
			w.touch()
			eventually(t, "a healthy daemon", func() bool { code, _ := get(t, r.Metrics[0]+"/healthz"); return code == http.StatusOK })
			if p, err := pubtest.ReadPointer(t.Context(), w.Repo()); err != nil || p.Timestamp != 1 {
				t.Errorf("timestamp %d was signed, %v", p.Timestamp, err)
			}
		})
	}
}
