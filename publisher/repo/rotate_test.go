package repo_test

import (
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/ingest"
	"github.com/phaseboot/phaseboot/publisher/mirror"
	"github.com/phaseboot/phaseboot/publisher/pubtest"
	"github.com/phaseboot/phaseboot/publisher/store"
)

func TestAReplacedOnlineKeySignsTheSameReleasesAgain(t *testing.T) {
	w := pubtest.New(t)
	release := w.Sign(1, "v1", w.Release)
	w.Add(release)
	old := w.OnlineKey()
	w.Online = pubtest.NewKey(t)
	w.NextRoot(2, w.Root)

	opts := w.AddOptions(release)
	opts.Online = old
	if _, err := ingest.Add(t.Context(), opts); !errors.Is(err, manifest.ErrSignature) || !strings.Contains(err.Error(), "--online-key") {
		t.Errorf("with the old key: %v", err)
	}
	status, err := store.ReadStatus(t.Context(), store.StatusOptions{Store: w.Path("store"), Repo: w.Repo()})
	if err != nil || !strings.Contains(status.Refused, "root version 2 replaced the online key") {
		t.Errorf("status: %q, %v", status.Refused, err)
	}
	again := w.Add(release)
	if !again.Unchanged || again.Timestamp != 2 || again.Snapshot != 2 {
		t.Errorf("got %+v", again)
	}
	if v := w.Verify(manifest.DirFetcher(w.Repo())); v.RootVersion() != 2 || v.Release().Version != "v1" {
		t.Errorf("root %d, release %s", v.RootVersion(), v.Release().Version)
	}
	if next := w.Add(w.Sign(2, "v2", w.Release)); next.Timestamp != 3 {
		t.Errorf("got %+v", next)
	}
}

// What is published is valid, but machines still accept a replaced release key.
func TestUnpublishedReleaseKeysAreAWarning(t *testing.T) {
	w := pubtest.New(t)
	w.Add(w.Sign(1, "v1", w.Release))
	warned := func() []string {
		t.Helper()
		status, err := store.ReadStatus(t.Context(), store.StatusOptions{Store: w.Path("store"), Repo: w.Repo()})
		pubtest.Check(t, err)
		done, err := mirror.Export(t.Context(), mirror.Options{Store: w.Path("store"), Repo: w.Repo(), Out: w.Path("mirror")})
		pubtest.Check(t, err)
		return []string{status.Warning, done.Warning}
	}
	w.Release = pubtest.NewKey(t)
	w.NextTargets(2)
	for _, said := range warned() {
		if !strings.HasPrefix(said, "targets version 2 is not published: machines still use the release keys of version 1; ") {
			t.Errorf("warning %q", said)
		}
	}
	w.Add(w.Sign(2, "v2", w.Release))
	if said := warned(); said[0] != "" || said[1] != "" {
		t.Errorf("with v2, warning %q", said)
	}
}

// An attacker with the online key and the publisher's disk sets the highest versions.
func TestAttackFastForwardOnThePublisherEndsWithANewOnlineKey(t *testing.T) {
	w := pubtest.New(t)
	release := w.Sign(1, "v1", w.Release)
	w.Add(release)
	const highest = 1<<53 - 1
	now := time.Now()
	w.Restamp(highest, now, now.Add(30*pubtest.Day), now.Add(pubtest.Day), files(w, release))
	if v := w.Verify(manifest.DirFetcher(w.Repo())); v.TimestampVersion() != highest {
		t.Fatalf("timestamp %d", v.TimestampVersion())
	}
	w.Online = pubtest.NewKey(t)
	w.NextRoot(2, w.Root)
	if again := w.Add(release); again.Timestamp != 1 || again.Snapshot != 1 {
		t.Errorf("got %+v", again)
	}
	w.Verify(manifest.DirFetcher(w.Repo()))
}

func TestARootThatMachinesWouldNotFollowIsNotPublished(t *testing.T) {
	for name, by := range map[string]func(w *pubtest.World, next ed25519.PrivateKey) []ed25519.PrivateKey{
		"signed by the new key alone": func(_ *pubtest.World, next ed25519.PrivateKey) []ed25519.PrivateKey {
			return []ed25519.PrivateKey{next}
		},
		"signed by the old key alone": func(w *pubtest.World, _ ed25519.PrivateKey) []ed25519.PrivateKey { return []ed25519.PrivateKey{w.Root} },
	} {
		t.Run(name, func(t *testing.T) {
			w := pubtest.New(t)
			w.Add(w.Sign(1, "v1", w.Release))
			next := pubtest.NewKey(t)
			keys := by(w, next)
			w.Root = next
			w.NextRoot(2, keys...)
			before := pubtest.FilesOf(t, w.Repo())
			_, err := ingest.Add(t.Context(), w.AddOptions(w.Sign(2, "v2", w.Release)))
			if !errors.Is(err, manifest.ErrSignature) || !strings.Contains(err.Error(), "2.root.json") {
				t.Errorf("got %v", err)
			}
			pubtest.Unchanged(t, before, pubtest.FilesOf(t, w.Repo()))
		})
	}
}

func TestATimestampOfAnUnknownKeyIsNotBuiltOn(t *testing.T) {
	w := pubtest.New(t)
	w.Add(w.Sign(1, "v1", w.Release))
	ts, err := manifest.Parse[metadata.TimestampType](manifest.KindTimestamp, w.Read("repo/timestamp.json"))
	pubtest.Check(t, err)
	ts.Signatures = nil
	w.Write("repo/timestamp.json", pubtest.Seal(t, manifest.KindTimestamp, ts, pubtest.NewKey(t)))
	if _, err := ingest.Add(t.Context(), w.AddOptions(w.Sign(2, "v2", w.Release))); !errors.Is(err, manifest.ErrSignature) {
		t.Errorf("got %v", err)
	}
}

// files are the targets and the release that a snapshot lists.
func files(w *pubtest.World, release []byte) []manifest.File {
	return []manifest.File{
		{Role: "targets", Version: 1, Data: w.Read("repo/1.targets.json")}, {Role: "stable-x86_64", Version: 1, Data: release},
	}
}

// An attacker with the online key dates a timestamp 70 years ahead. After the key was
// replaced, that date has no effect.
func TestAttackDateOfAStolenOnlineKeyEndsWithIt(t *testing.T) {
	t.Parallel()
	w, now := pubtest.New(t), time.Now()
	release := w.Sign(1, "v1", w.Release)
	w.Add(release)
	far := now.Add(70 * 365 * pubtest.Day)
	w.Restamp(1, far, far.Add(pubtest.Day), far.Add(pubtest.Day), files(w, release))
	m := w.Machine(now, now.Add(-pubtest.Day))
	m.Boots("v1")
	w.Online = pubtest.NewKey(t)
	w.NextRoot(2, w.Root)
	w.Add(release)
	m.Boots("v1")
	status, err := store.ReadStatus(t.Context(), store.StatusOptions{Store: w.Path("store"), Repo: w.Repo()})
	if pubtest.Check(t, err); status.Err() != nil || status.Until.After(now.Add(2*pubtest.Day)) {
		t.Errorf("status: %v, accepted until %s", status.Err(), status.Until)
	}
}
