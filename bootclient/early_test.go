package bootclient_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
)

// A leafLog lists the requests for leaves at mirrors that send no runs.
type leafLog struct {
	mu     sync.Mutex
	asked  []string
	second event // a second leaf was requested, so that the first has come
}

func (l *leafLog) bend(w http.ResponseWriter, req *http.Request, good http.Handler) {
	name := strings.TrimPrefix(req.URL.Path, "/ipfs/")
	if id, err := cid.Decode(name); err == nil && id.Type() == cid.Raw {
		l.mu.Lock()
		if l.asked = append(l.asked, name); len(l.asked) == 2 {
			l.second.happens()
		}
		l.mu.Unlock()
	}
	q := req.URL.Query()
	q.Set("format", "raw")
	req.URL.RawQuery = q.Encode()
	req.Header.Del("Accept")
	good.ServeHTTP(w, req)
}

// A source names an old release, whose leaves are fetched early. Then another source names a newer
// one, which shares all, some or no artifacts with it.
func TestANewerReleaseWinsOverOneThatIsFetchedEarly(t *testing.T) {
	for name, next := range map[string]func(old map[string][]byte) map[string][]byte{
		"the same artifacts": func(old map[string][]byte) map[string][]byte { return old },
		"the same rootfs": func(old map[string][]byte) map[string][]byte {
			old["kernel"], old["initramfs"] = content(11, 200<<10), content(12, 100<<10)
			return old
		},
		"other artifacts": func(map[string][]byte) map[string][]byte {
			return map[string][]byte{"kernel": content(11, 200<<10), "initramfs": content(12, 100<<10)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepo(t, "us", manifest.Discovery{})
			var leaves leafLog
			first := serve(t, r.frozen(), leaves.bend)
			r.release("2", next(maps.Clone(r.signed)))
			m := newMachine(t, r, "internet")
			m.cfg.Mode.Discovery, m.cfg.Cache = []string{"mirror"}, t.TempDir()
			m.cfg.WaitForNewer(time.Minute)
			m.cfg.Mirrors = []string{first.URL, serve(t, r, leaves.bend).after(&leaves.second).URL}
			m.boots(r)
			if slices.Contains(leaves.asked[1:], leaves.asked[0]) {
				t.Errorf("leaf %s was fetched early, and once more", leaves.asked[0])
			}
			m.reports("2", 2)

			// the state has the newer release, and no trace of the older one
			again := newMachine(t, r, "internet")
			again.cfg.Mode.Discovery, again.cfg.Cache, again.cfg.Timeout = []string{"mirror"}, m.cfg.Cache, 2*time.Second
			again.cfg.Mirrors = []string{first.URL}
			again.cfg.Hurry(10)
			again.boots(r)
		})
	}
}

// reports checks the release, the steps and the number of sources of the report.
func (m *machine) reports(release string, sources int) {
	m.t.Helper()
	data, err := json.Marshal(m.report)
	ok(m.t, err)
	var got struct {
		Release report.Release
		Steps   []struct{ Name string }
		Sources []report.SourceStats
	}
	ok(m.t, json.Unmarshal(data, &got))
	var steps []string
	for _, s := range got.Steps {
		if s.Name == "resolve" || s.Name == "fetch" {
			steps = append(steps, s.Name)
		}
	}
	if got.Release.Version != release || strings.Join(steps, " ") != "resolve fetch" || len(got.Sources) < sources {
		m.t.Errorf("the report is %s", data)
	}
}

// A source that fails while a release is fetched early costs nothing but the leaves.
func TestAnEarlyFetchThatFailsDoesNotFailTheBoot(t *testing.T) {
	for name, bend := range map[string]func(http.ResponseWriter, *http.Request, http.Handler){
		"wrong bytes": flip, "stalls": stall, "broken": broken, "not found": lacking, "endless": endless, "empty": empty,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRepo(t, "us", manifest.Discovery{})
			faulty := serve(t, r.frozen(), bend)
			r.release("2", map[string][]byte{"kernel": content(11, 200<<10), "initramfs": content(12, 100<<10)})
			good := serve(t, r, nil)
			m := newMachine(t, r, "private")
			m.cfg.WaitForNewer(time.Minute)
			m.cfg.Mirrors = []string{faulty.URL, good.after(&faulty.bent).URL}
			m.boots(r)
			if _, err := os.Stat(filepath.Join(m.out, "rootfs")); !errors.Is(err, fs.ErrNotExist) {
				t.Error("the newest release has no rootfs, the folder has one")
			}
			m.reports("2", 1)
		})
	}
}

// A source that sends a wrong leaf during the search is banned, and refused by name.
func TestASourceOfAWrongEarlyLeafIsBanned(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	var lied event
	faulty := serve(t, r.frozen(), func(w http.ResponseWriter, req *http.Request, good http.Handler) {
		if id, err := cid.Decode(strings.TrimPrefix(req.URL.Path, "/ipfs/")); err == nil && id.Type() == cid.Raw {
			flip(w, req, good)
			lied.happens()
			return
		}
		good.ServeHTTP(w, req)
	})
	m := newMachine(t, r, "private")
	m.cfg.WaitForNewer(time.Minute)
	m.cfg.Mirrors = []string{faulty.URL, serve(t, r, nil).after(&lied).URL}
	m.boots(r)
	if s := m.source(faulty.URL); !s.Banned || !strings.Contains(m.said(), faulty.URL+": block of ") {
		t.Errorf("it is %+v, and refused are: %s", s, m.said())
	}
}

// The only source lies during the search: the exit code is that of wrong bytes.
func TestAWrongEarlyLeafOfTheOnlySourceIsCorrupt(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	bad := serve(t, r, flip)
	silent := serve(t, r, nil)
	silent.Config.Handler = http.NotFoundHandler()
	m := newMachine(t, r, "private")
	m.cfg.Hurry(10)
	m.cfg.Mirrors, m.cfg.Timeout, m.cfg.Patience = []string{bad.URL, silent.after(&bad.bent).URL}, answerTime, answerTime
	m.refuses(cli.ExitCorrupt, "block baf", bad.URL)
}

// Early leaves are not fetched of artifacts of which the output folder has an earlier file.
func TestNothingIsFetchedEarlyThatTheOutputFolderMayHave(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "private")
	m.cfg.Mirrors = []string{serve(t, r, nil).URL}
	m.boots(r)
	var leaves leafLog
	var node event // an inner node was requested early
	first := serve(t, r, func(w http.ResponseWriter, req *http.Request, good http.Handler) {
		leaves.bend(w, req, good)
		node.happens()
	})
	m.cfg.WaitForNewer(time.Minute)
	m.cfg.Mirrors = []string{first.URL, serve(t, r, leaves.bend).after(&node).URL}
	m.boots(r)
	if len(leaves.asked) > 0 {
		t.Errorf("%d leaves were requested", len(leaves.asked))
	}
}
