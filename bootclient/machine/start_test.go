package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/modes"
)

var begun = startedRelease{Content: "c7", Release: "7", Channel: "stable", Arch: "x86_64", Number: 3, First: 3, At: time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)}

// jumpFrom writes the record of a jump with the saved manifest of a release.
func jumpFrom(t *testing.T, dir, name string, s startedRelease) {
	t.Helper()
	saved(t, dir, name, s.Number)
	must(t, writeStart(dir, s))
}

// saved writes the saved manifest of the newest release.
func saved(t *testing.T, dir, name string, version int64) {
	t.Helper()
	write(t, filepath.Join(dir, "trust/id/stable-x86_64.json"), fmt.Sprintf(`{"name":%q,"signed":{"version":%d}}`, name, version))
}

// good returns the name in the manifest of the last release that has started.
func good(t *testing.T, dir string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, goodManifest("stable", "x86_64")))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var m struct{ Name string }
	_ = json.Unmarshal(data, &m)
	return m.Name
}

// startsOf returns how often a content was started without a blessing, and whether it is blessed.
func startsOf(t *testing.T, dir, content string) (int, bool) {
	t.Helper()
	h, err := readHealth(dir)
	must(t, err)
	known := h.of(content)
	return known.Starts, known.Blessed
}

// A release counts as good when its target has removed the record, and only then.
func TestAStartThatIsNotConfirmedIsNamedAtTheNextBoot(t *testing.T) {
	dir := t.TempDir()
	confirmed := func() { must(t, os.Remove(filepath.Join(dir, startRecord))) }
	says := func(want ...string) {
		t.Helper()
		words, err := lastStart(dir, true)
		must(t, err)
		for _, w := range want {
			if !strings.Contains(words, w) {
				t.Errorf("no %q in %q", w, words)
			}
		}
		if len(want) == 0 && words != "" {
			t.Errorf("says %q", words)
		}
	}
	says()
	jumpFrom(t, dir, "one", begun)
	confirmed()
	says()
	if got := good(t, dir); got != "one" {
		t.Errorf("good is %q after a start", got)
	}
	next := begun
	next.Content, next.Release, next.Number, next.First = "c8", "8", 4, 4
	jumpFrom(t, dir, "two", next)
	says("stable/x86_64 8, version 4 was started on 2026-11-29T12:00:00Z", "has not confirmed it")
	jumpFrom(t, dir, "two", next)
	says("2 starts without a confirmation")
	if got := good(t, dir); got != "one" {
		t.Errorf("good is %q after a start that was not confirmed", got)
	}
	jumpFrom(t, dir, "three", begun)
	confirmed()
	says()
	if got := good(t, dir); got != "three" {
		t.Errorf("good is %q after another start", got)
	}
}

// The saved metadata are those of the newest release, which could not be booted.
func TestAStartOfTheLastGoodReleaseDoesNotMakeTheNewestOneGood(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		jumpFrom(t, dir, "one", begun)
		must(t, os.Remove(filepath.Join(dir, startRecord)))
		_, err := lastStart(dir, true)
		must(t, err)
	}
	saved(t, dir, "two", 4)
	for range 2 {
		must(t, writeStart(dir, begun))
		must(t, os.Remove(filepath.Join(dir, startRecord)))
		_, err := lastStart(dir, true)
		must(t, err)
		if got := good(t, dir); got != "one" {
			t.Errorf("good is %q", got)
		}
	}
}

// A disk that is full, or damaged, must not replace the good metadata by those of another start, or by a part
// of others.
func TestACopyThatFailsReplacesNothing(t *testing.T) {
	dir := t.TempDir()
	confirmed := func() {
		t.Helper()
		must(t, os.Remove(filepath.Join(dir, startRecord)))
		if words, err := lastStart(dir, true); err != nil || words != "" || good(t, dir) != "one" {
			t.Errorf("says %q, %v; good is %q", words, err, good(t, dir))
		}
	}
	jumpFrom(t, dir, "one", begun)
	confirmed()
	other := begun
	other.Content, other.Number = "c8", 4
	jumpFrom(t, dir, "two, which does not confirm its start", other)
	must(t, writeStart(dir, begun)) // of the metadata "one", which the cache has not any more
	confirmed()
	must(t, os.MkdirAll(filepath.Join(dir, "trust/another repository/stable-x86_64.json"), 0o700)) // a foreign folder: it is left out
	must(t, writeStart(dir, begun))
	confirmed()
}

func TestATargetRemovesTheRecordOfItsOwnStartOnly(t *testing.T) {
	dir := t.TempDir()
	jumpFrom(t, dir, "one", begun)
	for _, other := range []startHandOver{{Name: "stable/x86_64 8, version 4", Content: begun.Content}, {Name: begun.name(), Content: "c8"}} {
		if err := removeRecord(dir, other); err == nil || !strings.Contains(err.Error(), "of another start") {
			t.Errorf("got %v", err)
		}
	}
	own := startHandOver{Name: begun.name(), Content: begun.Content}
	must(t, removeRecord(dir, own))
	if err := removeRecord(dir, own); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a record: %v", err)
	}
}

func TestAReadOnlyBootOnlyReadsTheRecord(t *testing.T) {
	dir := t.TempDir()
	jumpFrom(t, dir, "one", begun)
	if words, err := lastStart(dir, false); err != nil || !strings.Contains(words, "has not confirmed it") {
		t.Errorf("says %q, %v", words, err)
	}
	must(t, os.Remove(filepath.Join(dir, startRecord)))
	if words, err := lastStart(dir, false); err != nil || words != "" || good(t, dir) != "" {
		t.Errorf("says %q, %v; good is %q", words, err, good(t, dir))
	}
}

// An attacker may have written the partition, and a power cut may have damaged a file.
func TestARecordThatIsNotOneIsRemoved(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"damaged":  func(path string) error { return os.WriteFile(path, []byte("{"), 0o600) },
		"a folder": func(path string) error { return os.Mkdir(path, 0o700) },
		"a link":   func(path string) error { return os.Symlink("/etc/passwd", path) },
		"too long": func(path string) error { return os.WriteFile(path, []byte(strings.Repeat(" ", 2*maxRecord)), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.MkdirAll(filepath.Join(dir, "start"), 0o700))
			must(t, make(filepath.Join(dir, startRecord)))
			write(t, filepath.Join(dir, startRole), `{"name":"of a release that may not have started"}`)
			must(t, health{Started: "c7", Releases: []contentHealth{{Content: "c7", Channel: "stable", Arch: "x86_64"}}}.write(dir))
			if _, err := lastStart(dir, true); err == nil {
				t.Error("it was accepted")
			}
			if words, err := lastStart(dir, true); err != nil || words != "" {
				t.Errorf("then says %q, %v", words, err)
			}
			if got := good(t, dir); got != "" {
				t.Errorf("good is %q", got)
			}
			jumpFrom(t, dir, "one", begun)
		})
	}
}

// A release that this machine cannot boot is remembered until it restarts, and falls back only
// where the mode allows it.
func TestWhenTheLastGoodReleaseIsTried(t *testing.T) {
	found := func(rep *report.Report) {
		rep.SetRelease(report.Release{Channel: "stable", Arch: "x86_64", Version: "8", Number: 4})
	}
	refused := errors.New("kexec: exec format error")
	for name, tt := range map[string]struct {
		err        error
		stale      string
		cache      string
		found      func(*report.Report)
		remembered string
		want       bool
	}{
		"refused":             {refused, "last-good", "/cache", found, "stable/x86_64 8, version 4", true},
		"the mode forbids it": {refused, "refuse", "/cache", found, "stable/x86_64 8, version 4", false},
		"no cache":            {refused, "last-good", "", found, "stable/x86_64 8, version 4", false},
		"no release":          {refused, "last-good", "/cache", func(*report.Report) {}, "", false},
		"a source was down":   {cas.ErrUnreachable, "last-good", "/cache", found, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			b := &boot{report: newReport(io.Discard), avoidFile: filepath.Join(t.TempDir(), "avoid")}
			b.config.Cache, b.config.Mode = tt.cache, modes.Mode{Stale: tt.stale}
			tt.found(b.report)
			if got := b.fallsBack(tt.err); got != tt.want {
				t.Errorf("falls back: %v", got)
			}
			if got := refusedRelease(b.avoidFile); got != tt.remembered {
				t.Errorf("remembered %q", got)
			}
			if tt.want && b.fallsBack(tt.err) {
				t.Error("it falls back again")
			}
		})
	}
}

// What the newest release has failed with may pass, so it is tried again when the last good one fails too.
func TestTheNewestReleaseIsTriedAgainIfTheLastGoodOneFailsToo(t *testing.T) {
	wrong, gone := fmt.Errorf("fetch: %w", cas.ErrCorrupt), fmt.Errorf("fetch: %w", cas.ErrUnreachable)
	for name, tt := range map[string]struct {
		other  bool // another release has started here
		err    error
		avoids bool // the next attempt does not try the newest one
	}{
		"it starts":          {true, nil, true},
		"it fails":           {true, gone, false},
		"there is no other":  {false, gone, true},
		"and wrong bytes":    {false, wrong, true},
		"it has wrong bytes": {true, wrong, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := &boot{report: newReport(io.Discard), avoidFile: filepath.Join(t.TempDir(), "avoid"), payload: NewPayload(nil, 0)}
			b.config.Cache, b.config.Mode = "/cache", modes.Mode{Name: "edge", Stale: "last-good"}
			b.report.SetRelease(report.Release{Channel: "stable", Arch: "x86_64", Version: "8", Number: 4})
			if !b.fallsBack(wrong) {
				t.Fatal("it does not fall back")
			}
			err := b.tryLastGood(wrong, func() error {
				if tt.other {
					b.report.SetRelease(report.Release{Channel: "stable", Arch: "x86_64", Version: "7", Number: 3})
				}
				return tt.err
			})
			if got := refusedRelease(b.avoidFile); (got != "") != tt.avoids {
				t.Errorf("the next attempt avoids %q", got)
			}
			if tt.avoids {
				if !errors.Is(err, tt.err) || b.failed != "" {
					t.Errorf("got %v, failed %q", err, b.failed)
				}
				return
			}
			if !errors.Is(err, wrong) || errors.Is(err, gone) || !strings.Contains(err.Error(), "; the last good release: fetch: ") {
				t.Errorf("got %v", err)
			}
			if b.failed != "stable/x86_64 8, version 4" {
				t.Errorf("the watcher waits for another release than %q", b.failed)
			}
		})
	}
}
