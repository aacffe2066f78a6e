package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

// blessingRelease is a release that asks for a blessing.
func blessingRelease(version string, number int64) manifest.Release {
	return manifest.Release{Channel: "stable", Arch: "x86_64", Version: version, Number: number, Cmdline: version, Bless: 600}
}

// The power is cut after each write of a jump. The number of starts is the one of before or one more, no release is
// blessed that has not started, and the one that was blessed before stays so, with its manifest.
func TestAPowerCutAtEachWriteOfAStartKeepsTheCount(t *testing.T) {
	next := begun
	next.Content, next.Release, next.Number, next.First = "c8", "8", 4, 4
	total := len(startSteps(t.TempDir(), next))
	for before := range 3 { // starts of the next release without a blessing
		for cut := range total + 1 {
			t.Run(fmt.Sprintf("%d starts, cut after write %d", before, cut), func(t *testing.T) {
				dir := t.TempDir()
				jumpFrom(t, dir, "one", begun)
				must(t, os.Remove(filepath.Join(dir, startRecord)))
				_, err := lastStart(dir, true)
				must(t, err)
				for range before {
					jumpFrom(t, dir, "two", next)
				}
				saved(t, dir, "two", next.Number)
				for _, step := range startSteps(dir, next)[:cut] {
					must(t, step())
				}
				_, err = lastStart(dir, true)
				must(t, err)
				want := before
				if cut == total {
					want++
				}
				if n, blessed := startsOf(t, dir, "c8"); n != want || blessed {
					t.Errorf("the next one: %d starts, blessed %v", n, blessed)
				}
				if _, blessed := startsOf(t, dir, "c7"); !blessed || good(t, dir) != "one" {
					t.Errorf("the one before: blessed %v, good is %q", blessed, good(t, dir))
				}
				must(t, writeStart(dir, next))
				if n, _ := startsOf(t, dir, "c8"); n != want+1 {
					t.Errorf("then %d starts", n)
				}
			})
		}
	}
}

// The power is cut while a boot notes that the last start was blessed: the next one notes it again.
func TestAPowerCutWhileABlessingIsNotedLosesNothing(t *testing.T) {
	dir := t.TempDir()
	jumpFrom(t, dir, "one", begun)
	must(t, os.Remove(filepath.Join(dir, startRecord)))
	must(t, os.Mkdir(filepath.Join(dir, goodDir), 0o700))
	must(t, os.Rename(filepath.Join(dir, startRole), filepath.Join(dir, goodManifest("stable", "x86_64"))))
	_, err := lastStart(dir, true)
	must(t, err)
	if n, blessed := startsOf(t, dir, "c7"); n != 0 || !blessed || good(t, dir) != "one" {
		t.Errorf("%d starts, blessed %v, good is %q", n, blessed, good(t, dir))
	}
}

// A release that is signed again, such as for more machines, neither loses its starts nor its blessing.
func TestAWidenedReleaseKeepsItsStarts(t *testing.T) {
	dir := t.TempDir()
	first := blessingRelease("8", 4)
	wider := first
	wider.Number, wider.First = 5, 4
	must(t, writeStart(dir, startOf(first, 0)))
	must(t, writeStart(dir, startOf(wider, 0)))
	if n, _ := startsOf(t, dir, first.Content()); n != 2 {
		t.Errorf("%d starts", n)
	}
}

// Releases that are stopped on a machine that has run them are no fallback for it any more.
func TestAStoppedReleaseLosesItsBlessing(t *testing.T) {
	first, second := blessingRelease("7", 3), blessingRelease("8", 4)
	again := first
	again.Number, again.First = 5, 5 // a rollback
	for name, row := range map[string]struct {
		then   manifest.Release
		chosen bool
		kept   bool
	}{
		"0 % or a hold": {first, true, false},
		"a rollback":    {again, true, false},
		"a fallback":    {first, false, true},
		"a newer one":   {blessingRelease("9", 6), true, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir, variables := t.TempDir(), unprotect(t, t.TempDir())
			start := func(r manifest.Release, chosen bool) {
				t.Helper()
				s := startOf(r, 0)
				s.Chosen = chosen
				must(t, writeStart(dir, s))
				must(t, os.Remove(filepath.Join(dir, startRecord)))
				_, err := lastStart(dir, true)
				must(t, err)
				must(t, countStart(variables, s))
				must(t, blessTries(variables, r.Content()))
			}
			start(first, true)
			start(second, true)
			start(row.then, row.chosen)
			h, err := readHealth(dir)
			must(t, err)
			inFirmware, err := readTries(variables)
			must(t, err)
			if h.of(second.Content()).Blessed != row.kept || inFirmware.of(second.Content()).Blessed != row.kept || !h.of(first.Content()).Blessed || !inFirmware.of(first.Content()).Blessed {
				t.Errorf("cache %+v, firmware %+v", h, inFirmware)
			}
			start(second, true)
			if h, err = readHealth(dir); err != nil || !h.of(second.Content()).Blessed {
				t.Errorf("started again: %+v, %v", h, err)
			}
		})
	}
}

// The file of the counters stays small, and the newest blessed release stays in it.
func TestTheCountersAreBounded(t *testing.T) {
	dir := t.TempDir()
	jumpFrom(t, dir, "one", begun)
	must(t, os.Remove(filepath.Join(dir, startRecord)))
	_, err := lastStart(dir, true)
	must(t, err)
	for i := range int64(2 * maxHealth) {
		must(t, writeStart(dir, startOf(blessingRelease(fmt.Sprint("9.", i), 10+i), 0)))
	}
	h, err := readHealth(dir)
	must(t, err)
	if len(h.Releases) != maxHealth || h.find("c7") != 0 {
		t.Errorf("%d releases, the blessed one is at %d", len(h.Releases), h.find("c7"))
	}
}

// An attacker may have written the partition, and a disk may be damaged: the counters begin at 0, which is said.
func TestCountersThatAreNoneBeginAgain(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"damaged":  func(path string) error { return os.WriteFile(path, []byte("{"), 0o600) },
		"a folder": func(path string) error { return os.Mkdir(path, 0o700) },
		"a link":   func(path string) error { return os.Symlink("/etc/passwd", path) },
		"too many": func(path string) error {
			return os.WriteFile(path, marshal(health{Releases: make([]contentHealth, maxHealth+1)}), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var said bytes.Buffer
			b := &boot{report: newReport(&said)}
			b.config.Cache, b.config.Mode = t.TempDir(), modes.Mode{Cache: "rw"}
			must(t, os.Mkdir(filepath.Join(b.config.Cache, "start"), 0o700))
			must(t, make(filepath.Join(b.config.Cache, healthFile)))
			b.readStarts()
			if !strings.Contains(said.String(), "they begin at 0") {
				t.Errorf("says %q", said.String())
			}
			must(t, writeStart(b.config.Cache, begun))
			if n, _ := startsOf(t, b.config.Cache, "c7"); n != 1 {
				t.Errorf("%d starts", n)
			}
		})
	}
}

// Only releases whose target knows how to bless are counted, and only where the boot may write. A stick is counted on
// when a target has reached it.
func TestWhichStartsAreCounted(t *testing.T) {
	for name, tt := range map[string]struct {
		bless              int64
		rights             string
		removable, blessed bool
		record, counts     bool
		says               string
	}{
		"a disk":                        {600, "rw", false, false, true, true, "start 3 of release 8 without a blessing; after 3,"},
		"no blessing asked for":         {0, "rw", false, true, true, false, ""},
		"a disk that is not written":    {600, "ro", false, true, false, false, "not counted: this boot writes to no cache partition"},
		"a stick":                       {600, "rw", true, false, true, false, "not counted on this stick until a target has blessed one"},
		"a stick that a target reaches": {600, "rw", true, true, true, true, "start 3 of release 8"},
		"a stick and no blessing":       {0, "rw", true, true, false, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var said bytes.Buffer
			r := blessingRelease("8", 4)
			r.Bless = tt.bless
			b := &boot{report: newReport(&said), removable: tt.removable}
			b.config.Cache, b.config.Mode = t.TempDir(), modes.Mode{Cache: tt.rights}
			h := health{Releases: []contentHealth{
				{Content: "c7", Channel: "stable", Arch: "x86_64", Blessed: tt.blessed}, {Content: r.Content(), Channel: "stable", Arch: "x86_64", Starts: 2},
			}}
			must(t, os.Mkdir(filepath.Join(b.config.Cache, "start"), 0o700))
			must(t, h.write(b.config.Cache))
			b.readStarts()
			b.sayTries(r)
			if b.recordsStart(r) != tt.record || b.counts(r) != tt.counts {
				t.Errorf("record %v, counts %v", b.recordsStart(r), b.counts(r))
			}
			known := 0
			if b.config.Starts != nil {
				known, _ = b.config.Starts(r)
			}
			if tt.counts != (known == 2) {
				t.Error("the search does not know the starts")
			}
			if got := said.String(); !strings.Contains(got, tt.says) || tt.says == "" && got != "" {
				t.Errorf("says %q", got)
			}
		})
	}
}

// A machine that has no older release is not restarted all the time.
func TestTheTimeForABlessingGrowsBeyondTheTries(t *testing.T) {
	r := blessingRelease("8", 4)
	for starts, want := range []int64{600, 600, 600, 1200, 2400} {
		b := &boot{health: health{Releases: []contentHealth{{Content: r.Content(), Starts: starts}}}}
		if got := b.handedStart(r); got.Bless != want || got.Content != r.Content() {
			t.Errorf("start %d: %+v, want %d s", starts+1, got, want)
		}
	}
	b := &boot{health: health{Releases: []contentHealth{{Content: r.Content(), Starts: 1000}}}}
	if got := b.handedStart(r); got.Bless != manifest.MaxBless {
		t.Errorf("at most %+v", got)
	}
}

// A release that was blessed once may fail later, by settings or a disk. Its starts are counted again: the time for a
// blessing grows, no older release is booted, and the boot says whether the settings have changed since.
func TestStartsOfABlessedReleaseAreCountedAgain(t *testing.T) {
	dir, r := t.TempDir(), blessingRelease("8", 4)
	starts, known := 0, false
	boots := func(settings int64, want int64, says ...string) {
		t.Helper()
		var said bytes.Buffer
		b := &boot{report: newReport(&said), release: r, settings: settings}
		b.config = bootclient.Config{Cache: dir, Mode: modes.Mode{Cache: "rw"}, Channel: "stable", Arch: "x86_64"}
		b.readStarts()
		said.Reset()
		b.sayTries(r)
		if got := b.handedStart(r).Bless; got != want {
			t.Errorf("%d s for a blessing, want %d", got, want)
		}
		if n, blessed := b.config.Starts(r); n != starts || blessed != known {
			t.Errorf("the search knows %d starts, blessed %v; want %d, %v", n, blessed, starts, known)
		}
		starts++
		for _, words := range says {
			if !strings.Contains(said.String(), words) {
				t.Errorf("no %q in %q", words, said.String())
			}
		}
		if len(says) == 0 && said.Len() > 0 {
			t.Errorf("says %q", said.String())
		}
		b.recordStart()
	}
	blesses := func() {
		must(t, os.Remove(filepath.Join(dir, startRecord)))
		starts, known = 0, true
	}
	boots(5, 600)
	blesses()
	boots(5, 600)
	boots(5, 600, "tries: start 2 of release 8 since its last blessing; it has run here, so no older one is booted")
	boots(6, 600, "tries: start 3 of release 8 since its last blessing, which was with settings of version 5, and they are of version 6 now; it has run here, so no older one is booted: check the settings")
	boots(6, 1200, "tries: start 4 of release 8")
	boots(6, 2400, "tries: start 5 of release 8")
	blesses()
	boots(6, 600)
	boots(6, 600, "tries: start 2 of release 8 since its last blessing; it has")
}

// The process of the deadline asks the target's first process only if that one takes the signal. systemd blocks it.
func TestWhoTakesTheSignalToRestart(t *testing.T) {
	for status, want := range map[string]bool{
		"Name:\tsystemd\nSigBlk:\t7be3c0fe28014a03\nSigIgn:\t0000000000001000\nSigCgt:\t00000000000004ec\n": true,
		"Name:\tsh\nSigBlk:\t0000000000000000\nSigIgn:\t0000004000000004\nSigCgt:\t0000000000010002\n":      false,
		"SigBlk:\t0000000000000000\nSigCgt:\t0000004000000000\n":                                            true,
		"SigBlk:\tx\n": false,
		"":             false,
	} {
		if got := takesSignal([]byte(status), signalReboot); got != want {
			t.Errorf("%q: %v", status, got)
		}
	}
}

// A cache that is created anew keeps what is known about the starts. A record that could not be read does not count as a
// blessing.
func TestTheTriesAreSavedFromADamagedCache(t *testing.T) {
	next := begun
	next.Content, next.Release, next.Number, next.First = "c8", "8", 4, 4
	for name, tt := range map[string]struct {
		damage func(record string) error
		starts int
		bless  bool
	}{
		"nothing is lost":            {func(string) error { return nil }, 2, false},
		"the record cannot be read":  {func(r string) error { return errors.Join(os.Remove(r), os.Mkdir(r, 0o700)) }, 2, false},
		"the record is gone":         {os.Remove, 2, false},
		"then the target blesses it": {func(string) error { return nil }, 0, true},
		"and all counters were damaged": {func(r string) error {
			return os.WriteFile(filepath.Join(filepath.Dir(r), "health.json"), []byte("{"), 0o600)
		}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			old, fresh := t.TempDir(), t.TempDir()
			jumpFrom(t, old, "one", begun)
			must(t, os.Remove(filepath.Join(old, startRecord)))
			_, err := lastStart(old, true)
			must(t, err)
			jumpFrom(t, old, "two", next)
			jumpFrom(t, old, "two", next)
			must(t, tt.damage(filepath.Join(old, startRecord)))
			must(t, restoreFiles(fresh, saveFiles(old)))
			if tt.bless {
				must(t, os.Remove(filepath.Join(fresh, startRecord)))
			}
			_, _ = lastStart(fresh, true)
			if strings.HasPrefix(name, "and all") {
				if _, err := readHealth(fresh); err == nil {
					t.Error("the counters are not damaged")
				}
				return
			}
			if n, blessed := startsOf(t, fresh, "c8"); n != tt.starts || blessed != tt.bless {
				t.Errorf("%d starts, blessed %v", n, blessed)
			}
			want := map[bool]string{false: "one", true: "two"}[tt.bless]
			if _, blessed := startsOf(t, fresh, "c7"); !blessed || good(t, fresh) != want {
				t.Errorf("the one before: blessed %v, good is %q", blessed, good(t, fresh))
			}
		})
	}
}

// phase-boot bless may be run any number of times, and says what it did in one line.
func TestBlessing(t *testing.T) {
	run, cache := t.TempDir(), t.TempDir()
	unreachable := errors.New("no ext4 file system")
	at := func(err error) func(context.Context) (string, func() error, error) {
		return func(context.Context) (string, func() error, error) { return cache, func() error { return nil }, err }
	}
	says := func(open func(context.Context) (string, func() error, error), want string, is error) {
		t.Helper()
		var out bytes.Buffer
		err := bless(t.Context(), &out, run, open)
		if !errors.Is(err, is) || out.String() != want {
			t.Errorf("says %q, %v", out.String(), err)
		}
	}
	says(at(nil), "", fs.ErrNotExist)
	write(t, filepath.Join(run, "release.json"), "{}")
	says(at(nil), "nothing to bless: this start is not counted, or it was confirmed\n", nil)
	write(t, filepath.Join(run, startName), string(marshal(startHandOver{Name: begun.name(), Content: begun.Content, Bless: 600})))
	jumpFrom(t, cache, "one", begun)
	says(at(unreachable), "", unreachable)
	if _, err := os.Stat(filepath.Join(run, blessedName)); err != nil {
		t.Errorf("a disk that fails lets the deadline restart a machine that works: %v", err)
	}
	says(at(nil), "blessed: stable/x86_64 7, version 3\n", nil)
	says(at(unreachable), "blessed before: stable/x86_64 7, version 3\n", nil)
	_, err := lastStart(cache, true)
	must(t, err)
	b := &boot{report: newReport(io.Discard)}
	b.config = bootclient.Config{Cache: cache, Mode: modes.Mode{Cache: "rw"}, Channel: "stable", Arch: "x86_64"}
	b.readStarts()
	if list := b.config.Blessed; len(list) != 1 || list[0].Content != "c7" || !strings.Contains(string(list[0].Manifest), "one") {
		t.Errorf("blessed: %+v", list)
	}
}

// The names in the cache become names of files. An attacker may have written them.
func TestNamesInTheHealthOfACacheLeadNowhere(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim-x86_64.json")
	write(t, victim, "{}")
	cache := filepath.Join(dir, "cache")
	for _, c := range []contentHealth{{Content: "c", Channel: "../../victim", Arch: "x86_64"}, {Content: "c", Channel: "stable", Arch: "x/../../../victim-x86_64"}} {
		must(t, os.MkdirAll(filepath.Join(cache, "start"), 0o700))
		write(t, filepath.Join(cache, startRole), "{}")
		must(t, health{Started: "c", Releases: []contentHealth{c}}.write(cache))
		_, err := lastStart(cache, true)
		must(t, err)
		if _, err := os.Stat(victim); err != nil {
			t.Errorf("%s-%s: %v", c.Channel, c.Arch, err)
		}
		if left, err := filepath.Glob(filepath.Join(cache, goodDir, "*")); err != nil || len(left) > 0 {
			t.Errorf("%s-%s: kept %q, %v", c.Channel, c.Arch, left, err)
		}
	}
}

// Nobody may have the older release any more, and the cache may have lost a part of it. Then the newest one is tried again.
func TestAFallbackThatNobodyHasIsAvoided(t *testing.T) {
	b := &boot{report: newReport(io.Discard), avoidFile: filepath.Join(t.TempDir(), "avoid")}
	b.report.SetRelease(report.Release{Channel: "stable", Arch: "x86_64", Version: "6", Number: 2})
	if b.fallsBack(cas.ErrUnreachable) || refusedRelease(b.avoidFile) != "" {
		t.Error("a newest release that nobody has is avoided")
	}
	b.report.SetTries(report.Tries{Failed: &report.FailedRelease{Version: "7"}})
	if b.fallsBack(cas.ErrUnreachable) || refusedRelease(b.avoidFile) != "stable/x86_64 6, version 2" {
		t.Errorf("avoids %q", refusedRelease(b.avoidFile))
	}
}
