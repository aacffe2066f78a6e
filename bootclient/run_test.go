package bootclient_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

// answerTime ends a search that finds nothing. Until then a test's server has answered, also on a busy host.
const answerTime = 10 * time.Second

// A machine is the machine of one test.
type machine struct {
	t      *testing.T
	cfg    bootclient.Config
	out    string
	report *report.Report
}

func newMachine(t *testing.T, r *repo, mode string) *machine {
	t.Helper()
	m, err := modes.Load(mode)
	ok(t, err)
	report := report.New(time.Now(), testWriter{t})
	return &machine{t: t, out: filepath.Join(t.TempDir(), "out"), report: report, cfg: bootclient.Config{
		Root: r.root, Channel: "stable", Arch: "x86_64", Mode: m, Timeout: time.Minute, Report: report,
	}}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (m *machine) fetch(ctx context.Context) error {
	m.t.Helper()
	sink, err := bootclient.NewDirSink(m.out)
	ok(m.t, err)
	_, err = bootclient.Run(ctx, m.cfg, sink)
	return err
}

// boots fetches and compares every byte with what was signed.
func (m *machine) boots(r *repo) {
	m.t.Helper()
	ok(m.t, m.fetch(m.t.Context()))
	for role, want := range r.signed {
		got, err := os.ReadFile(filepath.Join(m.out, role))
		ok(m.t, err)
		if !bytes.Equal(got, want) {
			m.t.Errorf("%s is not what was signed", role)
		}
	}
	entries, err := os.ReadDir(m.out)
	ok(m.t, err)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			m.t.Errorf("%s was left in the output folder", e.Name())
		}
	}
}

// bootsSoon boots and checks that a stalled source does not delay the boot.
func (m *machine) bootsSoon(r *repo) {
	m.t.Helper()
	alone := newMachine(m.t, r, "private")
	alone.cfg.Mirrors = []string{serve(m.t, r, nil).URL}
	begun := time.Now()
	alone.boots(r)
	usual := time.Since(begun)
	begun = time.Now()
	m.boots(r)
	if took := time.Since(begun); took > 5*usual+gateway.DefaultIdle*4/5 {
		m.t.Errorf("took %s beside a stalled source, and usually takes %s", took, usual)
	}
}

// refuses fetches, and expects the exit code, the words and no output folder.
func (m *machine) refuses(code int, words ...string) {
	m.t.Helper()
	err := m.fetch(m.t.Context())
	if cli.Code(err) != code {
		m.t.Fatalf("exit code %d, want %d: %v", cli.Code(err), code, err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			m.t.Errorf("error does not say %q: %v", w, err)
		}
	}
	if _, err := os.Stat(m.out); !errors.Is(err, fs.ErrNotExist) {
		m.t.Errorf("something stands at the output folder: %v", err)
	}
}

func (m *machine) source(name string) report.SourceStats {
	m.t.Helper()
	for _, s := range m.report.Sources() {
		if strings.Contains(s.Name, name) {
			return s
		}
	}
	m.t.Fatalf("no source %q in the report: %+v", name, m.report.Sources())
	return report.SourceStats{}
}

func TestFetchFromAMirrorIsByteForByte(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	s := serve(t, r, nil)
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{s.URL + "/"}
	m.boots(r)
	cmdline, err := os.ReadFile(filepath.Join(m.out, "cmdline"))
	ok(t, err)
	if string(cmdline) != "quiet console=ttyS0\n" {
		t.Errorf("cmdline is %q", cmdline)
	}
	var report struct {
		Result  string                  `json:"result"`
		Sources []report.SourceStats    `json:"sources"`
		Release report.Release          `json:"release"`
		Steps   []struct{ Name string } `json:"steps"`
		Memory  int64                   `json:"memory_peak_bytes"`
		Refused []report.Refusal        `json:"refused"`
	}
	data, err := os.ReadFile(filepath.Join(m.out, "report.json"))
	ok(t, err)
	ok(t, json.Unmarshal(data, &report))
	if report.Result != "ok" || report.Release.Version != "1" || len(report.Steps) != 2 || report.Memory == 0 || len(report.Sources) != 1 || report.Sources[0].Bytes < 4<<20 {
		t.Errorf("report is %s", data)
	}
}

func TestMirrorsOfRootJSONAreUsedWithoutAHint(t *testing.T) {
	var mirror http.Handler
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { mirror.ServeHTTP(w, req) }))
	defer front.Close()
	r := newRepo(t, "us", manifest.Discovery{HTTPS: []string{front.URL}})
	mirror = (&server{}).handler(r)
	newMachine(t, r, "private").boots(r)
}

func TestFetchFromAPeerOverStreams(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	_, addr := node(t, p2p.Options{}, (&server{}).handler(r))
	m := newMachine(t, r, "private")
	m.cfg.Peers = []string{addr}
	m.boots(r)
}

func TestFetchByTheDHTAlone(t *testing.T) {
	t.Parallel()
	prefix := "/phaseboot/test-dht"
	r := newRepo(t, "us", manifest.Discovery{DHTPrefix: prefix})
	_, entrance := node(t, p2p.Options{DHT: p2p.DHTServer, Prefix: prefix}, nil)
	info, err := p2p.ParsePeers([]string{entrance})
	ok(t, err)
	pub, _ := node(t, p2p.Options{DHT: p2p.DHTServer, Prefix: prefix, Bootstrap: info}, (&server{}).handler(r))
	ok(t, pub.Provide(t.Context(), r.directory))
	ok(t, pub.PutIPNS(t.Context(), r.ipns, r.record))

	m := newMachine(t, r, "internet")
	m.cfg.Mode.Discovery = []string{"dht"}
	m.cfg.Bootstrap = []string{entrance}
	m.boots(r)
	if s := m.source(pub.ID().String()); s.Kind != "dht" || s.Bytes < 4<<20 {
		t.Errorf("the publisher gave %+v", s)
	}
}

func TestACorruptPeerBesideAGoodOneIsNamed(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	bad := serve(t, r, flip)
	good := serve(t, r, waiting(&bad.bent))
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{bad.URL, good.URL}
	m.boots(r)
	if s := m.source(bad.URL); !s.Banned || len(s.Faults) == 0 || !strings.Contains(s.Faults[0], "hash to") {
		t.Errorf("the report says of the bad one: %+v", s)
	}
	if s := m.source(good.URL); s.Banned || s.Bytes < 4<<20 {
		t.Errorf("the report says of the good one: %+v", s)
	}
}

func TestACorruptPeerAloneIsRefusedWithTheBlock(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	bad := serve(t, r, flip)
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{bad.URL}
	m.refuses(cli.ExitCorrupt, "block baf", bad.URL)
}

func TestCorruptMetadataAloneIsRefused(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	s := serve(t, r, nil)
	good := s.Config.Handler
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, "/ipfs/") {
			flip(w, req, good)
			return
		}
		good.ServeHTTP(w, req)
	})
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{s.URL}
	m.refuses(cli.ExitCorrupt, r.directory.String(), s.URL)
}

func TestAStalledPeerBesideAGoodOneCostsLittle(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	slow := serve(t, r, stall)
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{slow.URL, serve(t, r, waiting(&slow.bent)).URL}
	m.bootsSoon(r)
}

func TestAPeerThatStallsOnMetadataDoesNotDelayTheBoot(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	slow, good := serve(t, r, nil), serve(t, r, nil)
	honest := slow.Config.Handler
	slow.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, "/ipfs/") {
			stall(w, req, nil)
			return
		}
		honest.ServeHTTP(w, req)
	})
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{slow.URL, good.URL}
	m.bootsSoon(r)
}

func TestAnUnreachableMirrorIsReported(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "private")
	m.cfg.Mirrors, m.cfg.Timeout = []string{"http://127.0.0.1:1"}, 3*time.Second
	m.refuses(cli.ExitNotFound, "s: mirror http://127.0.0.1:1: ", "not reached for ", "connection refused", "--mirror") // a refusal is an answer
}

// A machine has no flags, and a host has no kernel command line to change.
func TestAnErrorNamesTheArgumentsThatThereAre(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	for name, tt := range map[string]struct {
		machine     bool
		want, never string
	}{
		"phase-boot fetch": {false, "name a source with --mirror or --peer", "phase."},
		"a machine":        {true, "name a source with phase.mirror= or phase.peer=", "--"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, r, "private")
			m.cfg.KernelArgs, m.cfg.Mirrors, m.cfg.Timeout = tt.machine, []string{"http://127.0.0.1:1"}, 3*time.Second
			err := m.fetch(t.Context())
			if text := fmt.Sprint(err); !strings.Contains(text, tt.want) || strings.Contains(text, tt.never) {
				t.Errorf("it says: %v", err)
			}
		})
	}
}

func TestAFetchWithoutSourcesFailsAtOnce(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "private")
	start := time.Now()
	m.refuses(cli.ExitNotFound, "mode private has no discovery of its own")
	if time.Since(start) > m.cfg.Timeout/2 {
		t.Error("waited without a source")
	}
}

func TestAStalePointerLosesToTheNewestOne(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	old := r.frozen()
	oldServer := serve(t, old, nil)
	r.release("2", map[string][]byte{"kernel": content(11, 200<<10), "initramfs": content(12, 100<<10)})
	newest := serve(t, r, nil)
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{oldServer.after(&newest.looked).URL, newest.URL, serve(t, old, nil).after(&newest.looked).URL}
	m.boots(r)
	if _, err := os.Stat(filepath.Join(m.out, "rootfs")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the newest release has no rootfs, the folder has one")
	}
}

// A thief of the online key that root 2 revoked withholds root 2 and signs a timestamp with a
// high version, beside an honest mirror. The machine knows only root 1.
func TestAttackRevokedOnlineKeyDoesNotWinByAHighVersion(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	thief := r.frozen()
	thief.files = maps.Clone(r.files)
	stamp := *r.stamp
	stamp.Signed.Version = 1 << 40
	thief.stamp = &stamp
	thief.restamp(r.files["1.snapshot.json"], 100*time.Hour)
	r.replaceOnline(manifest.Discovery{IPNS: []string{r.ipns}})
	r.release("2", map[string][]byte{"kernel": content(11, 200<<10), "initramfs": content(12, 100<<10)})
	m := newMachine(t, r, "private")
	honest := serve(t, r, nil)
	m.cfg.Mirrors = []string{serve(t, thief, nil).after(&honest.looked).URL, honest.URL}
	m.boots(r)
}

// The repository has moved: only root 2 names the new mirror.
func TestAMachineUsesTheMirrorsOfTheSavedRoot(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	second := httptest.NewServer(nil)
	t.Cleanup(second.Close)
	r.replaceOnline(manifest.Discovery{IPNS: []string{r.ipns}, HTTPS: []string{second.URL}})
	honest := serve(t, r, nil)
	second.Config.Handler = honest.Config.Handler
	m := newMachine(t, r, "internet")
	m.cfg.Mode.Discovery = []string{"mirror"}
	m.cfg.Cache = t.TempDir()
	m.cfg.Mirrors = []string{honest.URL}
	m.boots(r)
	m.cfg.Mirrors = nil
	m.boots(r)
	m.cfg.Cache, m.cfg.Timeout = t.TempDir(), 2*time.Second
	if err := m.fetch(t.Context()); err == nil {
		t.Error("a machine that has seen root 1 alone found the new mirror")
	}
}

func TestAnOlderReleaseIsRefusedAfterANewerOne(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	old := serve(t, r.frozen(), nil)
	r.release("2", map[string][]byte{"kernel": content(11, 200<<10), "initramfs": content(12, 100<<10)})
	m := newMachine(t, r, "local")
	m.cfg.Mode.Discovery = []string{"mirror"}
	m.cfg.Cache = t.TempDir()
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.boots(r)
	ok(t, os.RemoveAll(m.out))
	m.cfg.Mirrors = []string{old.URL}
	m.boots(r) // from the newest release in the cache
	if !strings.Contains(m.said(), "older than") {
		t.Errorf("the report does not name the old release: %s", m.said())
	}
	ok(t, os.RemoveAll(m.out))
	ok(t, os.RemoveAll(filepath.Join(m.cfg.Cache, "blocks")))
	m.refuses(cli.ExitUntrusted, "older than", old.URL)
}

func TestThePointerOfAnotherRepositoryIsRefused(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	foreign := newRepo(t, "foreign", manifest.Discovery{})
	s := serve(t, foreign, nil)
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{s.URL}
	m.refuses(cli.ExitUntrusted, s.URL)
	t.Run("and beside ours it does not matter", func(t *testing.T) {
		m := newMachine(t, r, "private")
		s := serve(t, foreign, nil)
		m.cfg.Mirrors = []string{s.URL, serve(t, r, nil).after(&s.looked).URL}
		m.boots(r)
		if len(m.report.Refused()) == 0 {
			t.Error("the report does not name the other repository")
		}
	})
}

func TestAnExpiredReleaseIsRefused(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.cfg.Now = func() time.Time { return time.Now().Add(30 * time.Hour) }
	m.refuses(cli.ExitUntrusted, "expired")
}

// A refusal is printed when it happens. The caller of Run prints the error at the end.
func TestARefusalIsPrintedOnce(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.cfg.Now = func() time.Time { return time.Now().Add(30 * time.Hour) }
	console := new(bytes.Buffer)
	m.cfg.Report = report.New(time.Now(), console)
	m.refuses(cli.ExitUntrusted, "expired")
	ok(t, m.cfg.Report.Words(console))
	if n := strings.Count(console.String(), "expired"); n != 1 {
		t.Errorf("it is printed %d times:\n%s", n, console)
	}
}

func TestAnUnknownChannelListsTheKnownOnes(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "private")
	m.cfg.Channel = "edge"
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.refuses(cli.ExitNotFound, "edge", "stable")
}

func TestAnUnsignedRecordIsRefused(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	var err error
	r.record, err = p2p.NewRecord(key("someone"), r.directory, 9, time.Now().Add(time.Hour), time.Minute)
	ok(t, err)
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.refuses(cli.ExitUntrusted, "IPNS")
}

func TestASecondFetchTakesNoBlocksFromTheNetwork(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	s := serve(t, r, nil)
	cache := t.TempDir()
	for i := range 2 {
		m := newMachine(t, r, "internet")
		m.cfg.Mode.Discovery = []string{"mirror"}
		m.cfg.Cache, m.cfg.Mirrors = cache, []string{s.URL}
		s.blocks.Store(0)
		stored := false
		m.cfg.Stored = func(whole bool) { stored = whole }
		m.boots(r)
		if !stored {
			t.Error("Run says that the cache has not taken the whole release")
		}
		if n := s.blocks.Load(); (n == 0) != (i == 1) {
			t.Errorf("fetch %d asked for %d blocks", i+1, n)
		}
	}
}

func TestAPoisonedCacheBlockIsFetchedAgain(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	s := serve(t, r, nil)
	m := newMachine(t, r, "internet")
	m.cfg.Mode.Discovery = []string{"mirror"}
	m.cfg.Cache, m.cfg.Mirrors = t.TempDir(), []string{s.URL}
	m.boots(r)
	leaf := r.signed["rootfs"][1<<20 : 1<<20+64]
	poison(t, m.cfg.Cache, leaf)
	s.blocks.Store(0)
	m.out = filepath.Join(t.TempDir(), "out") // the first output folder would be a source
	m.boots(r)
	if n := s.blocks.Load(); n != 1 {
		t.Errorf("%d blocks were fetched for one that rotted", n)
	}
	if c := m.source("cache"); len(c.Faults) != 1 || c.Faults[0] != "1 damaged block, fetched again" {
		t.Errorf("the report says of the cache: %+v", c)
	}
	s.blocks.Store(0)
	m.out = filepath.Join(t.TempDir(), "out")
	m.boots(r)
	if n, c := s.blocks.Load(), m.source("cache"); n != 0 || len(c.Faults) > 0 {
		t.Errorf("the cache did not heal: %d blocks were fetched, %+v", n, c)
	}
}

// poison changes one byte of the given text in every file below dir.
func poison(t *testing.T, dir string, run []byte) {
	t.Helper()
	found := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if i := bytes.Index(data, run); i >= 0 {
			found++
			data[i] ^= 0x80
			return os.WriteFile(path, data, 0o600)
		}
		return nil
	})
	ok(t, err)
	if found == 0 {
		t.Fatal("the cache does not hold the block")
	}
}

func TestTheLastGoodReleaseBootsOnlyIfTheModeAllowsIt(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "internet")
	m.cfg.Mode.Discovery = []string{"mirror"}
	m.cfg.Cache, m.cfg.Mirrors = t.TempDir(), []string{serve(t, r, nil).URL}
	m.boots(r)
	ok(t, os.RemoveAll(m.out))
	m.cfg.Now = func() time.Time { return time.Now().Add(30 * time.Hour) }
	m.refuses(cli.ExitUntrusted, "expired")
	m.cfg.Mode.Stale = "last-good"
	m.boots(r)
	if len(m.report.Refused()) == 0 {
		t.Error("the report does not say that the release is not up to date")
	}
}

// As OPERATING.md says: a complete cache needs no source while its metadata are valid. Without
// blocks, the saved versions remain.
func TestACacheAloneBootsWhileItsMetadataAreValid(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	s := serve(t, r, nil)
	m := newMachine(t, r, "internet")
	m.cfg.Mode.Discovery = []string{"mirror"}
	m.cfg.Cache, m.cfg.Mirrors = t.TempDir(), []string{s.URL}
	m.boots(r)
	ok(t, os.RemoveAll(filepath.Join(m.cfg.Cache, "blocks")))
	ok(t, os.RemoveAll(m.out)) // another source
	m.boots(r)
	ok(t, os.RemoveAll(m.out))
	m.cfg.Mirrors = nil
	m.boots(r)
	if c := m.source("cache"); c.Bytes < 4<<20 {
		t.Errorf("the report says of the cache: %+v", c)
	}
	ok(t, os.RemoveAll(m.out))
	m.cfg.Now = func() time.Time { return time.Now().Add(30 * time.Hour) }
	m.cfg.Timeout = time.Second
	m.refuses(cli.ExitNotFound, "no source to ask")
	m.cfg.Mode.Stale = "last-good"
	m.boots(r)
	m.cfg.Mode.Stale, m.cfg.Now = "refuse", nil
	ok(t, os.RemoveAll(m.out))
	ok(t, os.RemoveAll(filepath.Join(m.cfg.Cache, "blocks")))
	m.refuses(cli.ExitNotFound, "no source to ask")
}

func TestACacheIsNotWrittenInAPrivateMode(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "private") // its cache is off
	m.cfg.Cache = t.TempDir()
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.boots(r)
	entries, err := os.ReadDir(m.cfg.Cache)
	ok(t, err)
	if len(entries) != 0 {
		t.Errorf("the cache got %v", entries)
	}
}

func TestAnInterruptLeavesNothing(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	ctx, cancel := context.WithCancel(t.Context())
	s := serve(t, r, func(w http.ResponseWriter, req *http.Request, good http.Handler) {
		cancel()
		stall(w, req, good)
	})
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{s.URL}
	console := new(bytes.Buffer)
	m.cfg.Report = report.New(time.Now(), console)
	if err := m.fetch(ctx); cli.Code(err) != cli.ExitInterrupted {
		t.Errorf("exit code %d: %v", cli.Code(err), err)
	}
	if !strings.HasSuffix(console.String(), "] fetch: interrupted\n") {
		t.Errorf("the console says:\n%s", console)
	}
	if _, err := os.Stat(m.out); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something stands at the output folder: %v", err)
	}
}

func TestASourceThatStartsLateIsUsed(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	late, addr := node(t, p2p.Options{}, nil)
	m := newMachine(t, r, "private")
	console := &lines{}
	m.report = report.New(time.Now(), console)
	m.cfg.Report, m.cfg.Peers = m.report, []string{addr}
	served := make(chan error, 1)
	go func() {
		<-console.prints("resolve: searching") // the first request has failed
		served <- late.Serve((&server{}).handler(r))
	}()
	m.boots(r)
	ok(t, <-served)
	if _, err := peer.Decode(m.source(late.ID().String()).Name); err != nil {
		t.Error(err)
	}
}

func TestAMalformedRootIsRefusedFirst(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "private")
	m.cfg.Root = []byte("{}")
	m.refuses(cli.ExitCorrupt, "root.json")
	if err := m.fetch(t.Context()); !errors.Is(err, manifest.ErrMalformed) || errors.Is(err, cas.ErrUnreachable) {
		t.Error(err)
	}
}
