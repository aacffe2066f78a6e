package publisher

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/repo"
)

// delegateConfig writes targets that also delegate the role config to the release key.
func (w *world) delegateConfig(version int64) {
	w.T.Helper()
	targets, err := manifest.NewTargets(version, time.Now().Add(10*pubtest.Day),
		manifest.Delegation{Channel: "stable", Arch: "x86_64", Keys: pubtest.Publics(w.Release), Threshold: 1},
		manifest.Delegation{Channel: manifest.ConfigRole, Keys: pubtest.Publics(w.Release), Threshold: 1})
	pubtest.Check(w.T, err)
	w.Write(fmt.Sprintf("repo/%d.targets.json", version), pubtest.Seal(w.T, manifest.KindTargets, targets, w.Root))
}

// signConfig signs the settings of a machine.
func (w *world) signConfig(number int64, hostname string) []byte {
	w.T.Helper()
	c, err := manifest.EncodeConfig(manifest.Config{
		Number: number, SignedAt: time.Now(), Expires: time.Now().Add(pubtest.Day),
		Settings: map[string]manifest.Settings{"mac-525400123456": {Hostname: hostname}},
	})
	pubtest.Check(w.T, err)
	return pubtest.Seal(w.T, manifest.KindConfig, c, w.Release)
}

func (w *world) publishConfig(data []byte) (known bool, err error) {
	w.T.Helper()
	r, err := repo.Open(w.T.Context(), w.Repo())
	pubtest.Check(w.T, err)
	_, known, err = r.PublishConfig(w.T.Context(), data, repo.Signing{Key: w.OnlineKey(), Now: time.Now()})
	return known, err
}

// settings is the hostname that a machine gets.
func (w *world) hostname(f manifest.Fetcher) string {
	w.T.Helper()
	v, err := manifest.Verify(w.T.Context(), f, manifest.Policy{
		Root: w.Read("repo/1.root.json"), Channel: "stable", Arch: "x86_64", Now: time.Now(),
		Machine: manifest.Machine{Selectors: []string{"mac-525400123456"}},
	})
	pubtest.Check(w.T, err)
	return v.Settings().Hostname
}

// Settings are published beside a release, replaced, and kept by a later release and after the online key was replaced;
// go-tuf downloads their documents from serve.
func TestSettingsArePublished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.delegateConfig(2)
	first := w.signConfig(1, "one")
	if _, err := w.publishConfig(first); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before the first release: %v", err)
	}
	r, _, _ := w.serveFirst()
	before := w.Read("repo/timestamp.json")
	other := w.Release
	w.Release = pubtest.NewKey(t)
	if _, err := w.publishConfig(w.signConfig(1, "evil")); !errors.Is(err, manifest.ErrSignature) {
		t.Errorf("signed by another key: %v", err)
	}
	w.Release = other
	if string(w.Read("repo/timestamp.json")) != string(before) {
		t.Error("a refused file changed the repository")
	}
	if known, err := w.publishConfig(first); known || err != nil {
		t.Errorf("the first: %t, %v", known, err)
	}
	if known, err := w.publishConfig(first); !known || err != nil {
		t.Errorf("the same again: %t, %v", known, err)
	}
	if got := w.hostname(manifest.DirFetcher(w.Repo())); got != "one" {
		t.Errorf("hostname %q", got)
	}
	if _, err := w.publishConfig(w.signConfig(1, "again")); !errors.Is(err, manifest.ErrRollback) {
		t.Errorf("another file of the same version: %v", err)
	}
	_, err := w.publishConfig(w.signConfig(2, "two"))
	pubtest.Check(t, err)
	w.Next(2, "v2")
	if got := w.hostname(manifest.DirFetcher(w.Repo())); got != "two" {
		t.Errorf("after another release: hostname %q", got)
	}
	c := tufClient{w, r.HTTP[0], t.TempDir()}
	want := `{"format":"phaseboot/settings/v1","hostname":"two"}`
	var got []byte
	eventually(t, "a TUF client downloads the settings", func() bool {
		if got, err = c.get("config/mac-525400123456.json"); err != nil {
			return false
		}
		return string(got) == want
	})
}
