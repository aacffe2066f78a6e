package bootclient_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

// listing lists a folder with the date of each file.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	ok(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			b.WriteString(path + " " + info.ModTime().String() + "\n")
		}
		return err
	}))
	return b.String()
}

func TestASearchRequestsNoArtifactAndWritesNothing(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "internet")
	m.cfg.Mode.Discovery, m.cfg.Cache = []string{"mirror"}, t.TempDir()
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.boots(r)
	before := listing(t, m.cfg.Cache)
	r.release("2", map[string][]byte{"kernel": content(11, 200<<10), "initramfs": content(12, 100<<10)})
	s := serve(t, r, func(_ http.ResponseWriter, req *http.Request, _ http.Handler) { t.Errorf("requested: %s", req.URL) })
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }))
	t.Cleanup(silent.Close)
	m.cfg.Mirrors = []string{s.URL, silent.URL} // the search waits for a newer release of the other one
	v, err := bootclient.Search(t.Context(), m.cfg)
	ok(t, err)
	if v.Release().Version != "2" {
		t.Errorf("found %s", v.Release().Version)
	}
	if after := listing(t, m.cfg.Cache); after != before {
		t.Errorf("the cache has changed from\n%s\nto\n%s", before, after)
	}
}

func TestASearchFindsAPublisherThatStartsLate(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	late, addr := node(t, p2p.Options{}, nil)
	m := newMachine(t, r, "private")
	m.cfg.Peers = []string{addr}
	m.cfg.Hurry(10)
	timer := time.AfterFunc(2*time.Second, func() { late.Serve((&server{}).handler(r)) })
	defer timer.Stop()
	v, err := bootclient.Search(t.Context(), m.cfg)
	ok(t, err)
	if v.Release().Version != "1" {
		t.Errorf("found %s", v.Release().Version)
	}
}

// An older release than the saved one would be refused by the next attempt, and one in the cache alone
// was there for the last attempt already.
func TestASearchFindsNothingThatTheLastAttemptRefused(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	old := serve(t, r, nil)
	r.release("2", map[string][]byte{"kernel": content(11, 200<<10), "initramfs": content(12, 100<<10)})
	m := newMachine(t, r, "internet")
	m.cfg.Mode.Discovery, m.cfg.Cache = []string{"mirror"}, t.TempDir()
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.boots(r)
	m.cfg.Hurry(10)
	m.cfg.Timeout = 2 * time.Second
	for name, tt := range map[string]struct {
		mirrors []string
		want    error
	}{
		"an older release": {[]string{old.URL}, manifest.ErrRollback},
		"only the cache":   {[]string{"http://127.0.0.1:1"}, cas.ErrUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			m.cfg.Mirrors = tt.mirrors
			if v, err := bootclient.Search(t.Context(), m.cfg); !errors.Is(err, tt.want) {
				t.Errorf("%v, %v; want %v", v, err, tt.want)
			}
		})
	}
}

// A person may choose the last good release in any mode. No source is asked for another one.
func TestAPersonChoosesTheLastGoodRelease(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "internet")
	m.cfg.Mode.Discovery = []string{"mirror"}
	m.cfg.Mirrors, m.cfg.LastGood = []string{serve(t, r, nil).URL}, true
	if err := m.fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "this machine has no cache") {
		t.Errorf("without a cache: %v", err)
	}
	m.cfg.Cache = t.TempDir()
	if err := m.fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "no release of channel") {
		t.Errorf("without a saved release: %v", err)
	}
	m.cfg.LastGood = false
	m.boots(r)
	first := r.signed
	r.release("2", map[string][]byte{"kernel": content(11, 200<<10), "initramfs": content(12, 100<<10)})
	m.cfg.Mirrors, m.cfg.LastGood = []string{serve(t, r, nil).URL}, true
	m.cfg.Now = func() time.Time { return time.Now().Add(30 * time.Hour) }
	m.boots(&repo{signed: first})
}

// A machine that cannot boot the newest release boots the last one that has started, where the mode allows
// it. The saved metadata are those of the newest, so the older ones are in a folder of their own.
func TestTheLastReleaseThatHasStartedReplacesOneThatCannotBeBooted(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "internet")
	m.cfg.Mode.Discovery, m.cfg.Cache = []string{"mirror"}, t.TempDir()
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.boots(r)
	first := r.signed
	m.cfg.Blessed = []bootclient.Blessed{r.blessed(1)}
	r.release("2", map[string][]byte{"kernel": content(11, 200<<10), "initramfs": content(12, 100<<10)})
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.cfg.Avoid = func(rel manifest.Release) bool { return rel.Version == "2" }
	m.boots(r) // the mode does not allow another one
	m.cfg.Mode.Stale = "last-good"
	m.boots(&repo{signed: first})
	if !strings.Contains(m.said(), "could not boot it") {
		t.Errorf("the report does not say why: %s", m.said())
	}
	m.cfg.Blessed = nil
	m.boots(r) // nothing else has started here
}

// A key that was replaced after the last start does not count any more, so what it has signed is not booted.
func TestTheNewestTargetsJudgeTheLastReleaseThatHasStarted(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "internet")
	m.cfg.Mode.Discovery, m.cfg.Mode.Stale, m.cfg.Cache = []string{"mirror"}, "last-good", t.TempDir()
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.boots(r)
	m.cfg.Blessed = []bootclient.Blessed{r.blessed(1)}
	r.replaceReleaser()
	r.release("2", map[string][]byte{"kernel": content(11, 200<<10), "initramfs": content(12, 100<<10)})
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.cfg.Avoid = func(rel manifest.Release) bool { return rel.Version == "2" }
	m.boots(r)
}

// A cache that is not written keeps older metadata. The newest manifest judges all the same to which release the machine may go back.
func TestTheNewestManifestJudgesTheLastGoodReleaseOfACacheThatIsNotWritten(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "internet")
	m.cfg.Mode.Discovery, m.cfg.Mode.Stale, m.cfg.Cache = []string{"mirror"}, "last-good", t.TempDir()
	boots := func(of *repo, says string) {
		t.Helper()
		var said strings.Builder
		m.report = report.New(time.Now(), &said)
		m.cfg.Report, m.cfg.Mirrors = m.report, []string{serve(t, r, nil).URL}
		m.boots(of)
		if !strings.Contains(said.String(), says) || strings.Contains(said.String(), "roll-out:") {
			t.Errorf("no %q in %s", says, said.String())
		}
	}
	boots(r, "release 1 from")
	first := &repo{signed: r.signed}
	m.cfg.Mode.Cache = "ro"
	next := map[string][]byte{"kernel": content(11, 200<<10), "initramfs": content(12, 100<<10)}
	m.cfg.Avoid = func(rel manifest.Release) bool { return rel.Number > 1 }
	r.release("2", next)
	boots(first, "NOT UP TO DATE: the last good release, as mode internet allows")
	r.change = func(rel *manifest.Release) { rel.FallbackFloor = 2 }
	r.release("3", next)
	boots(r, "the last good release: release number 1: below 2, the oldest one to which machines may fall back")
}
