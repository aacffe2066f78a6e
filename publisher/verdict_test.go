package publisher

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/manifest"
)

const day = 24 * time.Hour

// A setClock is a clock that a test moves, and a log that it reads meanwhile.
type setClock struct {
	start time.Time
	ahead atomic.Int64
	mu    sync.Mutex
	log   bytes.Buffer
}

func newClock() *setClock { return &setClock{start: time.Now()} }

func (c *setClock) now() time.Time       { return c.start.Add(c.up()) }
func (c *setClock) up() time.Duration    { return time.Duration(c.ahead.Load()) }
func (c *setClock) set(to time.Duration) { c.ahead.Store(int64(to)) }
func (c *setClock) logger() *slog.Logger { return slog.New(slog.NewTextHandler(c, nil)) }
func (c *setClock) String() string       { c.mu.Lock(); defer c.mu.Unlock(); return c.log.String() }

func (c *setClock) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.Write(p)
}

// lives publishes a repository with the given channels, whose files live for 400 days, or as
// long as lives says.
func (w *world) lives(start time.Time, lives map[string]time.Duration, channels ...string) {
	w.t.Helper()
	end := func(role string) time.Time {
		if life, ok := lives[role]; ok {
			return start.Add(life)
		}
		return start.Add(400 * day)
	}
	root, err := manifest.NewRoot(manifest.RootSpec{
		Root: publics(w.root), Threshold: 1, Online: publics(w.online), Expires: end(roleRoot),
		Discovery: manifest.Discovery{IPNS: []string{w.name()}, DHTPrefix: "/phaseboot/test"},
	})
	check(w.t, err)
	data, err := seal(manifest.KindRoot, root, signer(w.t, w.root))
	check(w.t, err)
	w.write("repo/1.root.json", data)
	var delegations []manifest.Delegation
	for _, c := range channels {
		delegations = append(delegations, manifest.Delegation{Channel: c, Arch: "x86_64", Keys: publics(w.release), Threshold: 1})
	}
	targets, err := manifest.NewTargets(1, end(roleTargets), delegations...)
	check(w.t, err)
	data, err = seal(manifest.KindTargets, targets, signer(w.t, w.root))
	check(w.t, err)
	w.write("repo/1.targets.json", data)
	files := []manifest.File{{Role: roleTargets, Version: 1, Data: data}}
	w.signing = start
	for _, c := range channels {
		w.channel, w.expires = c, end(c+"-x86_64")
		release := w.sign(1, "v1", w.release)
		w.add(release)
		files = append(files, manifest.File{Role: c + "-x86_64", Version: 1, Data: release})
	}
	w.restamp(start, end(roleSnapshot), end(roleTimestamp), files)
}

// restamp replaces snapshot and timestamp by ones with other dates.
func (w *world) restamp(signed, snapshotEnd, timestampEnd time.Time, files []manifest.File) {
	w.t.Helper()
	snapshot, err := manifest.NewSnapshot(nil, snapshotEnd, files...)
	check(w.t, err)
	data, err := seal(manifest.KindSnapshot, snapshot, signer(w.t, w.online))
	check(w.t, err)
	w.write("repo/1.snapshot.json", data)
	timestamp, err := manifest.NewTimestamp(nil, manifest.File{Role: roleSnapshot, Version: 1, Data: data}, signed, timestampEnd)
	check(w.t, err)
	data, err = seal(manifest.KindTimestamp, timestamp, signer(w.t, w.online))
	check(w.t, err)
	w.write("repo/timestamp.json", data)
}

// monitored is a daemon whose clock a test moves.
func (w *world) monitored(c *setClock) (r Ready, stop func()) {
	w.t.Helper()
	opts := w.serveOptions()
	opts.DHT, opts.Metrics, opts.Log, opts.Now, opts.Uptime = DHTOff, "127.0.0.1:0", c.logger(), c.now, c.up
	return w.serve(opts)
}

// look makes a daemon look at its repository.
func (w *world) look() { w.write("repo/note.json", []byte(time.Now().String())) }

// says is what monitoring of a repository says at one moment.
type says struct {
	status  Status
	live    string // /status
	code    int    // of /healthz
	words   string
	metrics string
}

func (w *world) says(c *setClock, r Ready) (s says) {
	w.t.Helper()
	var err error
	o := w.statusOptions()
	o.Now = c.now
	s.status, err = ReadStatus(w.t.Context(), o)
	check(w.t, err)
	s.code, s.words = get(w.t, r.Metrics[0]+"/healthz")
	_, s.live = get(w.t, r.Metrics[0]+"/status")
	_, s.metrics = get(w.t, r.Metrics[0]+"/metrics")
	return s
}

// red demands that everybody says that machines refuse a channel, and why.
func (s says) red(t *testing.T, channel string, reason error, why string) {
	t.Helper()
	if err := s.status.Err(); !errors.Is(err, reason) || !strings.Contains(err.Error(), why) {
		t.Errorf("status: %v", err)
	}
	if s.code != http.StatusServiceUnavailable || !strings.Contains(s.words, why) {
		t.Errorf("healthz: %d %s", s.code, s.words)
	}
	var live struct {
		Refused  string
		Healthy  bool
		Problems []string
	}
	check(t, json.Unmarshal([]byte(s.live), &live))
	if live.Healthy || !strings.Contains(live.Refused, why) || !strings.Contains(strings.Join(live.Problems, ""), why) {
		t.Errorf("/status: %s", s.live)
	}
	if !strings.Contains(s.metrics, fmt.Sprintf("phasepublish_accepted{channel=%q} 0\n", channel)) || !strings.Contains(s.metrics, "phasepublish_healthy 0\n") {
		t.Errorf("metrics: %s", s.metrics)
	}
}

// green demands that nobody says so.
func (s says) green(t *testing.T, when string) {
	t.Helper()
	if err := s.status.Err(); err != nil {
		t.Errorf("%s: status: %v", when, err)
	}
	if s.code != http.StatusOK {
		t.Errorf("%s: healthz: %d %s", when, s.code, s.words)
	}
	if !strings.Contains(s.live, `"healthy":true`) || !strings.Contains(s.metrics, "phasepublish_healthy 1\n") || strings.Contains(s.metrics, "phasepublish_accepted{channel=\"stable/x86_64\"} 0") {
		t.Errorf("%s: /status: %s\nmetrics: %s", when, s.live, s.metrics)
	}
}

// Expiry of each metadata file × everybody who should say so: status, /healthz, /status, the
// metrics, the log a quarter of its life before and at the moment, and a restart, which serves
// what it has.
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
			w.lives(c.start, map[string]time.Duration{row.file: 40 * day}, row.channels...)
			r, stop := w.monitored(c)
			c.set(day)
			w.says(c, r).green(t, "after a day")
			if strings.Contains(c.String(), "level=WARN") {
				t.Errorf("a warning: %s", c)
			}

			if row.renewed { // a disk that is read-only: .lock cannot be opened, not even by root
				check(t, os.RemoveAll(w.path("repo/.lock")))
				check(t, os.Mkdir(w.path("repo/.lock"), 0o755))
			}
			c.set(30*day + 12*time.Hour)
			w.look()
			name := row.file + ".json version 1"
			eventually(t, "a warning in the log", func() bool {
				return strings.Contains(c.String(), `level=WARN msg="less than a quarter of its life is left" file="`+name+" expires on ")
			})
			late := w.says(c, r)
			if late.status.Err() != nil || !strings.Contains(late.status.Warning, name+" expires on ") {
				t.Errorf("status: %v, warning %q", late.status.Err(), late.status.Warning)
			}
			if row.renewed != (late.code == http.StatusServiceUnavailable) || row.renewed != strings.Contains(late.words, "not writable for this user") {
				t.Errorf("before the end healthz says %d %s", late.code, late.words)
			}

			c.set(40 * day)
			w.look()
			eventually(t, "the end in the log", func() bool {
				return strings.Contains(c.String(), `level=WARN msg="machines refuse what is served"`) && strings.Contains(c.String(), name+" expired on ")
			})
			w.says(c, r).red(t, row.channel, manifest.ErrExpired, name+" expired on ")

			stop()
			again, _ := w.monitored(c)
			w.says(c, again).red(t, row.channel, manifest.ErrExpired, name+" expired on ")
			gw := &gateway.Client{Base: again.HTTP[0]}
			kernel := w.artifactAt(again.Head, gw, "kernel", c.start)
			if _, err := cas.Get(t.Context(), gw, kernel.CID); err != nil {
				t.Errorf("after a restart: %v", err)
			}
		})
	}
}

// artifactAt is artifact for a machine with another clock.
func (w *world) artifactAt(head string, src cas.Source, role string, now time.Time) manifest.Artifact {
	w.t.Helper()
	v, err := manifest.Verify(w.t.Context(), folder{src, head}, manifest.Policy{Root: w.read("repo/1.root.json"), Channel: "stable", Arch: "x86_64", Now: now})
	check(w.t, err)
	a, _ := v.Release().Artifact(role)
	return a
}

// A new root replaced a key of the daemon that runs. Machines that know that root refuse what
// is signed with the old one, or look under another name.
func TestMonitoringIsRedWhenARootReplacedAKeyOfTheDaemon(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		replace func(w *world)
		refused bool
		why     string
	}{
		{"the online key", func(w *world) { w.online = newKey(t) }, true, "root version 2 replaced the online key"},
		{"the IPNS key", func(w *world) { w.ipns = newKey(t) }, false, "root version 2 does not list the IPNS name"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w, c := newWorld(t), newClock()
			w.add(w.sign(1, "v1", w.release))
			r, _ := w.monitored(c)
			w.says(c, r).green(t, "before")
			row.replace(w)
			w.nextRoot(2, w.root)
			w.look()
			eventually(t, "a word in the log", func() bool { return strings.Contains(c.String(), row.why) })
			said := w.says(c, r)
			if said.code != http.StatusServiceUnavailable || !strings.Contains(said.words, row.why) || !strings.Contains(said.metrics, "phasepublish_healthy 0\n") {
				t.Errorf("healthz: %d %s", said.code, said.words)
			}
			if row.refused {
				said.red(t, "stable/x86_64", manifest.ErrSignature, "machines refuse every release: timestamp.json version 1: signed by 0 of 1 required keys")
			}
		})
	}
}

// A problem is told of by itself: the timer of the daemon ends with the first date.
func TestAVerdictKnowsWhenItChanges(t *testing.T) {
	w, c := newWorld(t), newClock()
	w.lives(c.start, map[string]time.Duration{"root": 40 * day}, "stable")
	r, err := openRepo(t.Context(), w.repo())
	check(t, err)
	head, err := readHead(t.Context(), w.repo())
	check(t, err)
	files, err := head.read(t.Context())
	check(t, err)
	at := c.now()
	for _, want := range []time.Duration{30 * day, 40 * day, 300 * day, 300 * day} {
		v, err := r.verdict(t.Context(), files, at)
		check(t, err)
		next := v.next(at)
		if got := next.Sub(c.start); got < want-time.Hour || got > want+time.Hour {
			t.Errorf("at %s it changes after %s, want %s", at, got, want)
		}
		if at = next; want == 300*day {
			return
		}
	}
}

func TestARepositoryThatCannotBeWrittenIsTold(t *testing.T) {
	t.Parallel()
	w, c := newWorld(t), newClock()
	w.add(w.sign(1, "v1", w.release))
	check(t, os.RemoveAll(w.path("repo/.lock")))
	check(t, os.Mkdir(w.path("repo/.lock"), 0o755)) // cannot be opened, not even by root
	r, _ := w.monitored(c)
	const why = "not writable for this user"
	if said := w.says(c, r); said.code != http.StatusServiceUnavailable || !strings.Contains(said.words, why) {
		t.Errorf("healthz: %d %s", said.code, said.words)
	}
	if !strings.Contains(c.String(), "level=WARN") || !strings.Contains(c.String(), why) {
		t.Errorf("the log: %s", c)
	}
	check(t, os.Remove(w.path("repo/.lock")))
	w.says(c, r).green(t, "when it can be written")
}
