package bootclient_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/watch"
	"github.com/phaseboot/phaseboot/internal/window"
	"github.com/phaseboot/phaseboot/manifest"
)

// watcher watches with a cache that has the running release.
func watcher(t *testing.T, r *repo, mirror func() string) (w *watch.Watcher, cache string) {
	t.Helper()
	cache = t.TempDir()
	filled(t, r, cache)
	return &watch.Watcher{
		Config:  func() (bootclient.Config, error) { return aheadConfig(t, r, cache, mirror()), nil },
		Running: r.running(r.number), Notice: t.TempDir(),
	}, cache
}

func (r *repo) at(t *testing.T) func() string { return func() string { return serve(t, r, nil).URL } }

// noticed returns the files of the notice, "" for one that is not there.
func noticed(t *testing.T, dir string) (required, packages string) {
	t.Helper()
	for name, text := range map[string]*string{"reboot-required": &required, "reboot-required.pkgs": &packages} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			*text = string(data)
		}
	}
	return required, packages
}

// closedWindow is a day that is not near.
func closedWindow(t *testing.T) window.Window {
	t.Helper()
	w, err := window.Parse(time.Now().UTC().AddDate(0, 0, 3).Format("Mon") + " UTC")
	ok(t, err)
	return w
}

// The notice for a restart appears when the next release is there, not before, and goes when the publisher takes the release
// back. Lines of other programs stay.
func TestAWatcherGivesNoticeOfTheNextRelease(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	var lines []string
	w, cache := watcher(t, r, r.at(t))
	w.Say, w.Window = func(line string) { lines = append(lines, line) }, closedWindow(t)
	round := func(state, required, packages string) {
		t.Helper()
		s, err := w.Once(t.Context())
		ok(t, err)
		gotRequired, gotPackages := noticed(t, w.Notice)
		if s.State != state || gotRequired != required || gotPackages != packages {
			t.Errorf("%+v with %q and %q, want %s with %q and %q", s, gotRequired, gotPackages, state, required, packages)
		}
		saved, err := watch.ReadStatus(w.Notice)
		ok(t, err)
		if saved.State != state || saved.Running != "1" || !saved.At.Equal(s.At) {
			t.Errorf("the saved status: %+v", saved)
		}
	}
	const text = "*** System restart required ***\n"
	old := r.frozen()
	round(bootclient.Current, "", "")
	r.second(1 << 20)
	round(bootclient.Waiting, "", "")
	offline(t, old, cache)
	w.Window = window.Window{}
	round(bootclient.Fetched, text, "phase-release=2\n")
	ok(t, os.WriteFile(filepath.Join(w.Notice, "reboot-required.pkgs"), []byte("libc6\nphase-release=0\n"), 0o644))
	round(bootclient.Fetched, text, "libc6\nphase-release=2\n")
	r.release("1", old.signed)
	round(bootclient.Current, text, "libc6\n")
	ok(t, os.WriteFile(filepath.Join(w.Notice, "reboot-required.pkgs"), []byte("phase-release=2\n"), 0o644))
	round(bootclient.Current, "", "")
	want := []string{"release 1 runs, and is the one", "release 2 is there; it is fetched in the maintenance window, from ", "release 2 is fetched and verified; start it with phase-boot switch", "release 1 runs"}
	if len(lines) != len(want) {
		t.Fatalf("%d lines: %q", len(lines), lines)
	}
	for i := range want {
		if !strings.HasPrefix(lines[i], want[i]) {
			t.Errorf("%q, want %q", lines[i], want[i])
		}
	}
}

// A watcher goes on after a publisher that was off, and ends when it is asked to.
func TestAWatcherGoesOnUntilItIsStopped(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	var mirror string
	var mu sync.Mutex
	at := func() string { mu.Lock(); defer mu.Unlock(); return mirror }
	w, cache := watcher(t, r, at)
	gone := serve(t, r, nil)
	gone.Close()
	mirror = gone.URL
	states := make(chan watch.Status, 100)
	w.Every, w.Done = 50*time.Millisecond, func(s watch.Status) { states <- s }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	next := func(state string) watch.Status {
		t.Helper()
		for {
			select {
			case s := <-states:
				if s.State == state {
					return s
				}
			case <-time.After(time.Minute):
				t.Fatalf("never %s", state)
			}
		}
	}
	if s := next(bootclient.Current); !s.Offline {
		t.Errorf("without a source: %+v", s)
	}
	r.second(1 << 20)
	s := serve(t, r, nil)
	mu.Lock()
	mirror = s.URL
	mu.Unlock()
	next(bootclient.Fetched)
	cancel()
	ok(t, <-ended)
	offline(t, r, cache)
}

// A round that fails says why, in its status too, and takes no notice away.
func TestAWatcherSaysWhyARoundHasFailed(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	w, _ := watcher(t, r, r.at(t))
	r.second(1 << 20)
	_, err := w.Once(t.Context())
	ok(t, err)
	lying := newRepo(t, "us", manifest.Discovery{})
	lying.number, lying.corrupt, lying.snap, lying.stamp = r.number, true, r.snap, r.stamp
	lying.release("3", map[string][]byte{"kernel": content(7, 300<<10), "initramfs": content(8, 700<<10)})
	good := w.Config
	w.Config = func() (bootclient.Config, error) {
		c, err := good()
		c.Mirrors = []string{serve(t, lying, nil).URL}
		return c, err
	}
	s, err := w.Once(t.Context())
	if err == nil || s.State != watch.Failed || !strings.Contains(s.Line(), "sha256") {
		t.Errorf("%+v, %v", s, err)
	}
	if _, packages := noticed(t, w.Notice); packages != "phase-release=2\n" {
		t.Errorf("the notice: %q", packages)
	}
	data, err := os.ReadFile(filepath.Join(w.Notice, "status.json"))
	ok(t, err)
	var saved map[string]any
	if err := json.Unmarshal(data, &saved); err != nil || saved["state"] != "failed" || saved["error"] == "" {
		t.Errorf("%s", data)
	}
}
