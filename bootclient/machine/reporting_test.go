package machine

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/peers"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
	"github.com/phaseboot/phaseboot/publisher/reports"
)

// A receiver is a publisher that takes boot reports, and can be switched off.
type receiver struct {
	*reports.Store
	url      string
	off      atomic.Bool
	requests atomic.Int64
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	db, err := reports.Open(t.Context(), filepath.Join(t.TempDir(), "reports.db"), reports.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{Store: db}
	taken := db.Handler()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.requests.Add(1)
		if r.off.Load() {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set(gateway.ReportsHeader, gateway.ReportsVersion)
		taken.ServeHTTP(w, req)
	}))
	r.url = server.URL
	t.Cleanup(func() {
		server.Close()
		db.Close()
	})
	return r
}

// booted returns a machine at the end of an attempt, with a cache in dir, "" for none.
func booted(t *testing.T, mode, dir string, to ...string) *boot {
	t.Helper()
	m, err := modes.Load(mode)
	if err != nil {
		t.Fatal(err)
	}
	b := &boot{report: report.New(time.Now(), nil), bootID: newBootID(), receivers: peers.Receivers{Named: to}, config: bootclient.Config{
		Mode: m, Cache: dir, Arch: "x86_64", Machine: manifest.Machine{ID: machineID("m"), Groups: []string{"lab"}},
	}}
	b.config.Cache = dir
	if _, err := b.machineKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.report.SetMode(m.Name)
	return b
}

func TestThreeMachinesBootAndTheReportOfTheFailedOneHasItsConsole(t *testing.T) {
	r := newReceiver(t)
	for i := range 3 {
		b := booted(t, "local", t.TempDir(), r.url)
		if i == 1 {
			b.report.Begin("network").FailOptional(errors.New("no link"))
			b.report.Finish(errors.New("no source is reachable"))
			b.reportFailure(t.Context())
			continue
		}
		if i == 2 { // signed settings say more of it than the command line
			b.payload = &Payload{settings: manifest.MachineSettings{Number: 1, Settings: manifest.Settings{Hostname: "node2", Groups: []string{"lab", "signed"}}}}
			b.report.SetTries(report.Tries{Starts: 2, Limit: 3})
		}
		b.report.Finish(nil)
		if words, err := b.reportStep(t.Context()); err != nil || words != "sent to "+r.url {
			t.Errorf("%q, %v", words, err)
		}
	}
	list, err := r.List(t.Context(), reports.Query{})
	if err != nil || len(list) != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	if m := list[0]; m.Hostname != "node2" || len(m.Groups) != 2 || m.Last.Starts != 2 {
		t.Errorf("the last one has said %+v, %+v", m, m.Last)
	}
	failed := 0
	for _, m := range list {
		_, d, err := r.Document(t.Context(), m.Key, m.Last.ID)
		if err != nil || d.Ephemeral || d.MachineID != machineID("m") || m.Groups[0] != "lab" || m.Arch != "x86_64" || m.Last.Mode != "local" {
			t.Errorf("%+v, %v", m, err)
		}
		if m.Last.Result == "failed" {
			failed++
			if m.Last.Error != "no source is reachable" || !strings.Contains(strings.Join(d.Console, "\n"), "network: failed: no link") {
				t.Errorf("the failed one says %+v, %q", m.Last, d.Console)
			}
		} else if d.Console != nil {
			t.Errorf("the report of a boot that went well has a console: %q", d.Console)
		}
	}
	if failed != 1 {
		t.Errorf("%d have failed", failed)
	}
}

func TestAReportThatWasMadeWhileThePublisherIsOffArrivesLater(t *testing.T) {
	r := newReceiver(t)
	r.off.Store(true)
	cache := t.TempDir()
	first := booted(t, "local", cache, r.url)
	first.report.Finish(nil)
	words, err := first.reportStep(t.Context())
	if err != nil || !strings.HasPrefix(words, "kept for the next boot: "+r.url) {
		t.Errorf("%q, %v", words, err)
	}
	second := booted(t, "local", cache) // no source at all
	second.report.Finish(errors.New("no source"))
	second.reportFailure(t.Context())
	if list, err := r.List(t.Context(), reports.Query{}); err != nil || len(list) != 0 {
		t.Fatalf("%+v, %v", list, err)
	}
	r.off.Store(false)
	third := booted(t, "local", cache, "http://127.0.0.1:1", r.url)
	third.report.Finish(nil)
	if words, err := third.reportStep(t.Context()); err != nil || words != "sent to "+r.url+", with 2 reports of earlier boots" {
		t.Errorf("%q, %v", words, err)
	}
	list, err := r.List(t.Context(), reports.Query{})
	if err != nil || len(list) != 1 || list[0].Boots != 3 {
		t.Errorf("%+v, %v", list, err)
	}
	if left, err := filepath.Glob(filepath.Join(cache, pendingDir, "*")); err != nil || len(left) > 0 {
		t.Errorf("left are %q, %v", left, err)
	}
}

// A neighbour that nobody named takes the report while the named publisher is off. The publisher gets it all the same.
func TestAReportThatANeighbourHasTakenIsKeptForTheNamedPublisher(t *testing.T) {
	r, neighbour := newReceiver(t), newReceiver(t)
	r.off.Store(true)
	cache := t.TempDir()
	first := booted(t, "local", cache, r.url)
	first.receivers.Heard = []string{neighbour.url}
	first.report.Finish(nil)
	words, err := first.reportStep(t.Context())
	if err != nil || !strings.HasPrefix(words, "kept for the next boot: "+r.url) || !strings.Contains(words, neighbour.url+" has taken it") {
		t.Errorf("%q, %v", words, err)
	}
	r.off.Store(false)
	second := booted(t, "local", cache, r.url)
	second.receivers.Heard = []string{neighbour.url}
	second.report.Finish(nil)
	if words, err := second.reportStep(t.Context()); err != nil || words != "sent to "+r.url+", with 1 report of earlier boots" {
		t.Errorf("%q, %v", words, err)
	}
	for got, want := range map[*receiver]int{r: 2, neighbour: 1} {
		if list, err := got.List(t.Context(), reports.Query{}); err != nil || len(list) != 1 || list[0].Boots != want {
			t.Errorf("%s has %+v, want %d boots; %v", got.url, list, want, err)
		}
	}
}

// A mode or a proxy that hides the machine prevents every report: nothing is sent and nothing is kept.
func TestAPrivateBootReportsNothing(t *testing.T) {
	r := newReceiver(t)
	proxy, err := url.Parse("http://192.0.2.1:3128")
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*boot){
		"private":        func(*boot) {},
		"tor":            func(*boot) {},
		"local, a proxy": func(b *boot) { b.config.Proxy = http.ProxyURL(proxy) },

		"local, phase.cache=off":    func(b *boot) { b.config.Mode.Cache = "off" },
		"internet, phase.cache=off": func(b *boot) { b.config.Mode.Cache = "off" },
	} {
		t.Run(name, func(t *testing.T) {
			mode, _, _ := strings.Cut(name, ",")
			cache := t.TempDir()
			b := booted(t, mode, cache, r.url)
			change(b)
			before := filesIn(t, cache)
			b.report.Finish(nil)
			if words, err := b.reportStep(t.Context()); err != nil || !strings.HasPrefix(words, "none") {
				t.Errorf("%q, %v", words, err)
			}
			b.reportFailure(t.Context())
			if b.reportingFile() != nil {
				t.Error("the target gets what it needs for a report")
			}
			if n := r.requests.Load(); n > 0 {
				t.Errorf("%d requests", n)
			}
			if after := filesIn(t, cache); after != before {
				t.Errorf("the cache had %s, and has %s", before, after)
			}
		})
	}
}

// filesIn lists the files of a folder.
func filesIn(t *testing.T, dir string) string {
	t.Helper()
	var list []string
	if err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		list = append(list, path)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(list)
}

// The target sends the same boot again, with its own steps, when the publisher takes it.
func TestATargetReportsWithItsOwnSteps(t *testing.T) {
	r := newReceiver(t)
	b := booted(t, "local", t.TempDir(), r.url)
	b.report.Finish(nil)
	if _, err := b.reportStep(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	handed := b.reportingFile()
	if len(handed) != 1 || handed[0].perm != 0o600 {
		t.Fatalf("handed over: %+v", handed)
	}
	for name, data := range map[string][]byte{handed[0].name: handed[0].data, keyFile: b.key, reportName: []byte(`{"result":"ok","mode":"local","target":{"steps":[{"name":"rootfs"}]}}`)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var said []string
	if err := ReportTarget(t.Context(), dir, "", func(words string) { said = append(said, words) }); err != nil {
		t.Fatal(err)
	}
	list, err := r.List(t.Context(), reports.Query{})
	if err != nil || len(list) != 1 || list[0].Boots != 1 || list[0].Hostname == "" {
		t.Fatalf("%+v, %v", list, err)
	}
	_, d, err := r.Document(t.Context(), list[0].Key, b.bootID)
	if err != nil || !strings.Contains(string(d.Report), `"target":{"steps":`) || len(said) != 1 {
		t.Errorf("%s, %v; said %q", d.Report, err, said)
	}
	if err := os.Remove(filepath.Join(dir, reportingName)); err != nil {
		t.Fatal(err)
	}
	if err := ReportTarget(t.Context(), dir, "", func(string) {}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without %s: %v", reportingName, err)
	}
}

func TestTheReportOfABootWithoutACacheSaysSo(t *testing.T) {
	r := newReceiver(t)
	b := booted(t, "local", "", r.url)
	b.report.Finish(nil)
	if _, err := b.reportStep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, err := r.List(t.Context(), reports.Query{}); err != nil || len(list) != 1 || !list[0].Ephemeral {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestSavedReportsLeaveThePendingOnes(t *testing.T) {
	cache := t.TempDir()
	pending := filepath.Join(cache, pendingDir, "x")
	if err := os.MkdirAll(pending, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range maxReports + 5 {
		if _, err := saveReports(cache, time.Unix(int64(i), 0), []byte("{}"), nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(pending); err != nil {
		t.Error(err)
	}
}
