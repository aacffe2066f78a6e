package bootclient_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/manifest"
)

// blessed is what a machine knows about a version of the repository's channel that has started on it.
func (r *repo) blessed(number int64) bootclient.Blessed {
	r.t.Helper()
	data := r.files[fmt.Sprintf("%d.stable-x86_64.json", number)]
	d, err := manifest.Open(data)
	ok(r.t, err)
	return bootclient.Blessed{Content: d.Release().Content(), Manifest: data}
}

// After three starts without a blessing, the newest release that has started here is booted, whatever the mode says about
// stale metadata, and the report says why. A newer release is tried again. The floor of the newest manifest and the
// content of the older release are checked.
func TestAReleaseThatNobodyBlessedIsReplacedByTheLastBlessedOne(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	m := newMachine(t, r, "internet")
	m.cfg.Mode.Discovery, m.cfg.Cache = []string{"mirror"}, t.TempDir()
	var said strings.Builder
	boots := func(of *repo) {
		t.Helper()
		said.Reset()
		m.report = report.New(time.Now(), &said)
		m.cfg.Report, m.cfg.Mirrors = m.report, []string{serve(t, r, nil).URL}
		m.boots(of)
	}
	says := func(words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(said.String(), w) {
				t.Errorf("no %q in %s", w, said.String())
			}
		}
	}
	boots(r)
	first := &repo{signed: r.signed}
	known := r.blessed(1)
	r.change = func(rel *manifest.Release) { rel.Bless = 600 }
	bad := map[string][]byte{"kernel": content(11, 200<<10), "initramfs": content(12, 100<<10)}
	r.release("2", bad)
	starts, blessed := map[string]int{}, false
	m.cfg.Starts = func(rel manifest.Release) (int, bool) { return starts[rel.Version], blessed }
	m.cfg.Blessed = []bootclient.Blessed{known}
	starts["2"] = bootclient.MaxTries - 1
	boots(r)
	starts["2"], blessed = bootclient.MaxTries, true
	boots(r) // it has run here before
	if data, err := json.Marshal(m.report); err != nil || !strings.Contains(string(data), `"tries":{"starts":4,"limit":3}`) || strings.Contains(said.String(), "fallback:") {
		t.Errorf("a release that was blessed before: %s, %v, %s", data, err, said.String())
	}
	blessed = false
	boots(first)
	says(`fallback: release "2" was started 3 times and its target has not blessed it; release "1" is booted, which has started here before; a newer release is tried again`)
	data, err := json.Marshal(m.report)
	ok(t, err)
	if text := string(data); !strings.Contains(text, `"tries":{"starts":1,"limit":3,"failed":{"release":"2","role_version":2,"content":"`) || !strings.Contains(text, `"starts":3,"why":"release \"2\" was started 3 times and`) {
		t.Errorf("the report: %s", text)
	}

	m.cfg.Blessed = []bootclient.Blessed{{Content: "another", Manifest: known.Manifest}}
	boots(r)
	says("it is tried again: the release that has started here: neither in the newest manifest nor in the one that was kept")
	m.cfg.Blessed = nil
	boots(r)
	says("it is tried again: no other release has started on this machine")

	m.cfg.Blessed = []bootclient.Blessed{known}
	r.change = func(rel *manifest.Release) { rel.Bless, rel.FallbackFloor = 600, 2 }
	starts["3"] = bootclient.MaxTries
	r.release("3", bad)
	boots(r)
	says("it is tried again: release number 1: below 2, the oldest one to which machines may fall back")
	r.change = nil
	r.release("4", map[string][]byte{"kernel": content(21, 200<<10), "initramfs": content(12, 100<<10)})
	boots(r)
	if strings.Contains(said.String(), "fallback:") {
		t.Errorf("a newer release: %s", said.String())
	}
}
