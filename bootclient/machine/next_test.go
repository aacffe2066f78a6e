package machine

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/network"
	"github.com/phaseboot/phaseboot/internal/bootargs"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/netns"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

const nextLine = "console=ttyS0 phase.mode=local phase.mirror=http://192.0.2.1 phase.peer=/ip4/192.0.2.2/tcp/4001/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp phase.group=lab phase.watch=Sat,02:00-05:00"

// nextBoot is the boot of a machine that may go on to the next release.
func nextBoot(t *testing.T, mode string) *boot {
	t.Helper()
	b := booted(t, mode, t.TempDir())
	b.bootLine, b.args, b.removable = nextLine, bootargs.Parse(nextLine), true
	b.config.Channel, b.config.Floor, b.config.StaleBy = "stable", time.Unix(1.7e9, 0).UTC(), "phase.stale="
	b.config.Machine.Selectors = []string{"mac-525400123456"}
	b.config.Heard = func() ([]string, <-chan struct{}) { return []string{"http://192.0.2.9"}, nil }
	return b
}

// handOverOf writes what a boot hands over, and returns the folder.
func handOverOf(t *testing.T, b *boot, r manifest.Release) string {
	t.Helper()
	dir := t.TempDir()
	files := append(append(b.nextFile(), modeFiles(b.config.Mode)...), handedFile{"release.json", 0o644, marshal(r)}, handedFile{seedRoot, 0o644, []byte("{}")})
	for _, f := range files {
		if strings.Contains(f.name, "/") {
			continue
		}
		must(t, os.WriteFile(filepath.Join(dir, f.name), f.data, os.FileMode(f.perm)))
	}
	return dir
}

// A target gets what the boot knew, and makes the same search of it.
func TestATargetSearchesAsItsBootDid(t *testing.T) {
	b := nextBoot(t, "local")
	if files := b.nextFile(); len(files) != 1 || files[0].perm != 0o600 {
		t.Fatalf("handed over: %+v", files)
	}
	release := blessingRelease("8", 4)
	r, err := readRunning(handOverOf(t, b, release), "watch")
	must(t, err)
	c := r.config
	if c.Channel != "stable" || c.Arch != "x86_64" || !reflect.DeepEqual(c.Machine, b.config.Machine) || !c.Floor.Equal(b.config.Floor) || c.StaleBy != "phase.stale=" {
		t.Errorf("%+v", c)
	}
	if len(c.Mirrors) != 1 || len(c.Peers) != 1 || c.Cache != "" || !reflect.DeepEqual(c.Mode, b.config.Mode) {
		t.Errorf("%+v", c)
	}
	if heard, _ := c.Heard(); len(heard) != 1 || heard[0] != "http://192.0.2.9" {
		t.Errorf("heard: %q", heard)
	}
	if r.release.Content() != release.Content() || !r.next.Removable {
		t.Errorf("%+v", r)
	}
	// and hands it over again
	again := r.boot(b.config.Cache, nil)
	if got, want := again.nextFile(), b.nextFile(); string(got[0].data) != string(want[0].data) {
		t.Errorf("the next target gets %s, this one got %s", got[0].data, want[0].data)
	}
	line, err := targetCmdline("quiet", "9", again.args, func(string) bool { return true })
	must(t, err)
	if want := "quiet console=ttyS0 panic=30 phase.watch=Sat,02:00-05:00 phase.release=9"; line != want {
		t.Errorf("command line %q, want %q", line, want)
	}
}

// Nothing is handed over where the mode or the command line forbids it, and the commands say so.
func TestAPrivateTargetNeitherWatchesNorSwitches(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*boot)
		code   int
		words  string
	}{
		"private":         {func(b *boot) { b.config.Mode, _ = modes.Load("private") }, cli.ExitUsage, "mode private: the mode is private; restart the machine"},
		"tor":             {func(b *boot) { b.config.Mode, _ = modes.Load("tor") }, cli.ExitUsage, "the mode is private"},
		"phase.cache=ro":  {func(b *boot) { b.config.Mode.Cache = "ro" }, cli.ExitUsage, "may not write to a cache partition"},
		"phase.cache=off": {func(b *boot) { b.config.Mode.Cache = "off" }, cli.ExitUsage, "may not write to a cache partition"},
		"no partition":    {func(b *boot) { b.config.Cache = "" }, cli.ExitNotFound, "has handed over no next.json: it had no cache partition, or its image is older"},
	} {
		t.Run(name, func(t *testing.T) {
			b := nextBoot(t, "local")
			tt.change(b)
			dir := handOverOf(t, b, blessingRelease("8", 4))
			if files := b.nextFile(); files != nil {
				t.Errorf("handed over: %+v", files)
			}
			o := NextOptions{Dir: dir, Cache: t.TempDir()}
			_, _, err := NewWatcher(t.Context(), o)
			if cli.Code(err) != tt.code || !strings.Contains(err.Error(), "watch: ") || !strings.Contains(err.Error(), tt.words) {
				t.Errorf("watch: exit code %d: %v", cli.Code(err), err)
			}
			err = Switch(t.Context(), SwitchOptions{NextOptions: o}, nil)
			if cli.Code(err) != tt.code || !strings.Contains(err.Error(), "switch: ") || !strings.Contains(err.Error(), tt.words) {
				t.Errorf("switch: exit code %d: %v", cli.Code(err), err)
			}
		})
	}
	err := Switch(t.Context(), SwitchOptions{NextOptions: NextOptions{Dir: t.TempDir()}}, nil)
	if cli.Code(err) != cli.ExitNotFound || !strings.Contains(err.Error(), "run it in a system that Phase Boot has started") {
		t.Errorf("elsewhere: %v", err)
	}
}

// The payload of a switch is another release than the running one, and the one that was asked for.
func TestASwitchRefusesTheWrongRelease(t *testing.T) {
	running, next := blessingRelease("8", 4), blessingRelease("9", 5)
	next.Cmdline = "another"
	for name, tt := range map[string]struct {
		offered manifest.Release
		wanted  string
		code    int
		words   string
	}{
		"the running one":                  {running, "", cli.ExitNotFound, "release 8 runs already, and the cache has no other one"},
		"the running one, which is wanted": {running, "8", cli.ExitNotFound, "runs already"},
		"another than wanted":              {next, "10", cli.ExitUsage, `--release "10": the next release of this machine is "9"`},
		"the wanted one":                   {next, "9", cli.ExitOK, ""},
		"any":                              {next, "", cli.ExitOK, ""},
	} {
		p := NewPayload(nil, 1<<30)
		p.meminfo = func(string) int64 { return 1 << 30 }
		err := (&nextPayload{p, running, tt.wanted}).Plan(tt.offered)
		if cli.Code(err) != tt.code || err != nil && !strings.Contains(err.Error(), tt.words) {
			t.Errorf("%s: exit code %d: %v", name, cli.Code(err), err)
		}
	}
}

// A switch searches nowhere but in the cache, and does not change what the next boot may do.
func TestASwitchHasTheCacheAlone(t *testing.T) {
	b := nextBoot(t, "internet")
	b.config.Mirrors, b.config.Share = []string{"http://192.0.2.1"}, true
	c := fromCache(b.config)
	if c.Mirrors != nil || c.Peers != nil || c.Heard != nil || c.Share || len(c.Mode.Discovery) > 0 || c.Mode.Cache != "ro" || c.Mode.Announce {
		t.Errorf("%+v", c)
	}
	if b.config.Mode.Cache != "rw" || len(b.config.Mode.Discovery) == 0 || !b.config.Mode.Announce {
		t.Errorf("the boot has changed: %+v", b.config.Mode)
	}
}

// The next target gets the addresses of the running one, and asks the DHCP servers at once.
func TestASwitchHandsOverTheNetwork(t *testing.T) {
	b := nextBoot(t, "local")
	dir := handOverOf(t, b, blessingRelease("8", 4))
	state := network.State{Interfaces: []network.Interface{{
		Name: "eth0", Kind: "ethernet", MAC: "52:54:00:12:34:56", PermanentMAC: "52:54:00:12:34:56", Link: true, MTU: 1500,
		Addresses: []network.Address{{Prefix: netip.MustParsePrefix("192.0.2.7/24"), From: "dhcp4"}},
		Lease4:    &network.Lease{Until: time.Now().Add(-time.Hour)},
	}}}
	data, err := json.Marshal(state)
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(dir, networkDir), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, stateFile), data, 0o644))
	r, err := readRunning(dir, "switch")
	must(t, err)
	again := r.boot(b.config.Cache, nil)
	again.payload = NewPayload(nil, 0)
	files := map[string]string{}
	for _, f := range again.handOver(blessingRelease("9", 5), []byte("{}")) {
		files[f.name] = string(f.data)
	}
	if !strings.Contains(files["network/10-phase-eth0.network"], "Address=192.0.2.7/24") || files["network/renew-after"] != "30\n" || files[nextName] == "" {
		t.Errorf("%+v", files)
	}
}

// The tries of a release count for a watcher as for a boot.
func TestAWatcherKnowsTheTries(t *testing.T) {
	b := nextBoot(t, "local")
	b.removable = false
	next := blessingRelease("9", 5)
	next.Bless = 600
	h := health{Releases: []contentHealth{{Content: next.Content(), Channel: "stable", Arch: "x86_64", Starts: bootclient.MaxTries}}}
	must(t, os.Mkdir(filepath.Join(b.config.Cache, "start"), 0o700))
	must(t, h.write(b.config.Cache))
	w, leave, err := NewWatcher(t.Context(), NextOptions{Dir: handOverOf(t, b, blessingRelease("8", 4)), Cache: b.config.Cache})
	must(t, err)
	must(t, leave())
	c, err := w.Config()
	must(t, err)
	if c.Cache != b.config.Cache || c.Starts == nil || c.Report == nil {
		t.Fatalf("%+v", c)
	}
	if n, blessed := c.Starts(next); n != bootclient.MaxTries || blessed {
		t.Errorf("%d starts, blessed %v", n, blessed)
	}
}

// The starts of the running release do not count against it, and its blessing is known before the next boot notes it.
func TestAWatcherKnowsThatItsReleaseRuns(t *testing.T) {
	b := nextBoot(t, "local")
	b.removable = false
	running := blessingRelease("8", 4)
	running.Bless = 600
	must(t, os.Mkdir(filepath.Join(b.config.Cache, "start"), 0o700))
	dir := handOverOf(t, b, running)
	for range bootclient.MaxTries {
		must(t, writeStart(b.config.Cache, startOf(running, 1)))
	}
	look := func(wantBlessed bool) {
		t.Helper()
		r, err := readRunning(dir, "watch")
		must(t, err)
		r.useCache(b.config.Cache)
		if n, blessed := r.config.Starts(running); n != 0 || blessed != wantBlessed || len(r.config.Blessed) > 0 != wantBlessed {
			t.Errorf("%d starts, blessed %v, want %v", n, blessed, wantBlessed)
		}
	}
	look(false)
	must(t, os.Remove(filepath.Join(b.config.Cache, startRecord)))
	look(true)
	h, err := readHealth(b.config.Cache)
	must(t, err)
	if h.anyBlessed() {
		t.Error("a look has written")
	}
}

// A switch that is stopped, or whose start cannot be counted, ends before the jump.
func TestASwitchCountsItsStartBeforeTheJump(t *testing.T) {
	stopped, stop := context.WithCancel(t.Context())
	stop()
	broken := errors.New("broken pipe")
	for name, tt := range map[string]struct {
		ctx      context.Context
		loaded   error
		damage   bool
		want     string
		recorded bool
	}{
		"good":               {t.Context(), nil, false, "", true},
		"Ctrl-C":             {stopped, nil, false, "context canceled", false},
		"nobody reads":       {t.Context(), broken, false, "broken pipe", false},
		"a cache that fails": {t.Context(), nil, true, "the start cannot be counted", false},
	} {
		t.Run(name, func(t *testing.T) {
			b := nextBoot(t, "local")
			b.removable, b.report, b.release = false, newReport(io.Discard), blessingRelease("9", 5)
			if tt.damage {
				b.config.Cache = filepath.Join(b.config.Cache, "gone", "too")
				must(t, os.WriteFile(filepath.Dir(b.config.Cache), nil, 0o600))
			}
			said := false
			err := b.commitStart(tt.ctx, SwitchOptions{Loaded: func(Switched) error { said = true; return tt.loaded }}, Switched{})
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) || said != (name != "Ctrl-C") {
				t.Errorf("%v, said %v", err, said)
			}
			if _, err := readStart(b.config.Cache); (err == nil) != tt.recorded {
				t.Errorf("the record: %v", err)
			}
		})
	}
}

// The cache partition becomes read-only with the last program that writes to it. A dry run leaves it as it is.
func TestTheLastWriterMakesTheCacheReadOnly(t *testing.T) {
	if !netns.Inside(t) { // for its mounts
		return
	}
	mount := func(dir string) {
		t.Helper()
		must(t, os.MkdirAll(dir, 0o700))
		must(t, unix.Mount("test", dir, "tmpfs", noPrograms, "size=1m"))
	}
	mount("/run")
	must(t, os.CopyFS(runDir, os.DirFS(handOverOf(t, nextBoot(t, "local"), blessingRelease("8", 4)))))
	mount(nextCache)
	must(t, setReadOnly(nextCache, true))
	state := func(when string, readOnly bool) {
		t.Helper()
		if isReadOnly(nextCache) != readOnly {
			t.Errorf("%s: read-only is %v", when, !readOnly)
		}
	}
	use := func(cache string) func() error {
		t.Helper()
		_, leave, err := openCache(t.Context(), cache)
		must(t, err)
		return leave
	}
	_, leave, err := openCacheReadOnly(t.Context(), "")
	must(t, err)
	state("dry run", true)
	must(t, leave())
	byHand := use("")
	must(t, OpenNextCache(t.Context())) // the unit starts
	service := use(nextCache)
	state("two writers", false)
	must(t, byHand())
	state("the service goes on", false)
	byHand = use("")
	must(t, service())
	must(t, CloseNextCache()) // the unit stops
	state("a switch goes on", false)
	must(t, byHand())
	state("nobody writes", true)
	dir, leave, err := openBlessed(t.Context())
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "record"), nil, 0o600))
	must(t, leave())
	state("after a blessing", true)
}

func TestTheKernelCommandLineSaysWhenToWatch(t *testing.T) {
	for line, want := range map[string]string{
		"quiet":                             "",
		"quiet phase.watch=on":              "on",
		"phase.watch=off":                   "off",
		"phase.watch=on phase.watch=off":    "off",
		"phase.watch=Mon-Fri,02:00-05:00":   "window",
		`phase.watch="Mon-Fri 02:00-05:00"`: "",
		"phase.watch=never":                 "",
		"phase.watch":                       "",
	} {
		on, given, w, err := watchWord(line)
		must(t, err)
		monday := time.Date(2026, 11, 2, 3, 0, 0, 0, time.Local)
		got := ""
		switch {
		case given && !on:
			got = "off"
		case on && w.Open(monday.Add(12*time.Hour)):
			got = "on"
		case on && w.Open(monday):
			got = "window"
		}
		if got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}
