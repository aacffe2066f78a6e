package publisher

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
)

// nextRoot puts a root into the repository that lists w's keys as they are now, signed
// by the given ones.
func (w *world) nextRoot(version int64, by ...ed25519.PrivateKey) {
	w.t.Helper()
	name, err := p2p.Name(public(w.ipns))
	check(w.t, err)
	root, err := manifest.NewRoot(manifest.RootSpec{
		Version: version, Root: publics(w.root), Threshold: 1, Online: publics(w.online),
		Discovery: manifest.Discovery{IPNS: []string{name}, DHTPrefix: "/phaseboot/test"}, Expires: time.Now().Add(240 * time.Hour),
	})
	check(w.t, err)
	for _, key := range by {
		_, err := manifest.Sign(root, signer(w.t, key))
		check(w.t, err)
	}
	data, err := manifest.Bytes(manifest.KindRoot, root)
	check(w.t, err)
	w.write(fmt.Sprintf("repo/%d.root.json", version), data)
}

// nextTargets puts targets into the repository that give stable to w's release key.
func (w *world) nextTargets(version int64) {
	w.t.Helper()
	targets, err := manifest.NewTargets(version, time.Now().Add(240*time.Hour),
		manifest.Delegation{Channel: "stable", Arch: "x86_64", Keys: publics(w.release), Threshold: 1})
	check(w.t, err)
	data, err := seal(manifest.KindTargets, targets, signer(w.t, w.root))
	check(w.t, err)
	w.write(fmt.Sprintf("repo/%d.targets.json", version), data)
}

func TestAReplacedOnlineKeySignsTheSameReleasesAgain(t *testing.T) {
	w := newWorld(t)
	release := w.sign(1, "v1", w.release)
	w.add(release)
	old := w.onlineKey()
	w.online = newKey(t)
	w.nextRoot(2, w.root)

	opts := w.options(release)
	opts.Online = old
	if _, err := Add(t.Context(), opts); !errors.Is(err, manifest.ErrSignature) || !strings.Contains(err.Error(), "--online-key") {
		t.Errorf("with the old key: %v", err)
	}
	status, err := ReadStatus(t.Context(), w.statusOptions())
	if err != nil || !strings.Contains(status.Refused, "root version 2 replaced the online key") {
		t.Errorf("status: %q, %v", status.Refused, err)
	}
	again := w.add(release)
	if !again.Unchanged || again.Timestamp != 2 || again.Snapshot != 2 {
		t.Errorf("got %+v", again)
	}
	if v := w.verify(manifest.DirFetcher(w.repo())); v.RootVersion() != 2 || v.Release().Version != "v1" {
		t.Errorf("root %d, release %s", v.RootVersion(), v.Release().Version)
	}
	if next := w.add(w.sign(2, "v2", w.release)); next.Timestamp != 3 {
		t.Errorf("got %+v", next)
	}
}

func TestServeSignsAgainWithAReplacedOnlineKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.add(w.sign(1, "v1", w.release))
	w.online, w.ipns = newKey(t), newKey(t)
	w.nextRoot(2, w.root)
	opts := w.serveOptions()
	opts.DHT = DHTOff
	r, _ := w.serve(opts)
	gw := &gateway.Client{Base: r.HTTP[0]}
	head, seq := resolve(t, gw, r.IPNS)
	if head == first.Head || seq != 2 {
		t.Errorf("head %s, sequence %d", head, seq)
	}
	if v := w.verify(folder{gw, head}); v.RootVersion() != 2 {
		t.Errorf("root %d", v.RootVersion())
	}
}

func TestServeKeepsTheOldHeadUntilItHasTheNewKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r, gw := w.serveFirst()
	w.online = newKey(t)
	w.nextRoot(2, w.root)
	time.Sleep(3 * settle)
	if v := w.verify(folder{gw, r.Head}); v.RootVersion() != 1 {
		t.Errorf("root %d", v.RootVersion())
	}
	if head, _ := resolve(t, gw, r.IPNS); head != r.Head {
		t.Errorf("the head moved to %s", head)
	}
	w.add(w.read("repo/1.stable-x86_64.json")) // another process, with the new key
	eventually(t, "root 2", func() bool {
		head, _ := resolve(t, gw, r.IPNS)
		return head != r.Head && w.verify(folder{gw, head}).RootVersion() == 2
	})
}

// Nothing is wrong with what is published, and yet a thief's key is still good for machines.
func TestAnOperatorIsToldOfReleaseKeysThatAreNotPublished(t *testing.T) {
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	warned := func() []string {
		t.Helper()
		status, err := ReadStatus(t.Context(), w.statusOptions())
		check(t, err)
		done, err := Export(t.Context(), ExportOptions{Store: w.path("store"), Repo: w.repo(), Out: w.path("mirror")})
		check(t, err)
		return []string{status.Warning, done.Warning}
	}
	w.release = newKey(t)
	w.nextTargets(2)
	for _, said := range warned() {
		if !strings.HasPrefix(said, "targets version 2 is not published: machines still go by the release keys of version 1; ") {
			t.Errorf("told %q", said)
		}
	}
	w.add(w.sign(2, "v2", w.release))
	if said := warned(); said[0] != "" || said[1] != "" {
		t.Errorf("with v2, told %q", said)
	}
}

func TestReplacedReleaseKeysMoveTheHeadWithTheNextRelease(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r, gw := w.serveFirst()
	thief := w.release
	w.release = newKey(t)
	w.nextTargets(2)
	time.Sleep(3 * settle)
	if v := w.verify(folder{gw, r.Head}); v.Release().Version != "v1" {
		t.Errorf("serves %s", v.Release().Version)
	}
	if _, err := Add(t.Context(), w.options(w.sign(2, "evil", thief))); !errors.Is(err, manifest.ErrSignature) {
		t.Errorf("the thief's release: %v", err)
	}
	w.add(w.sign(2, "v2", w.release))
	eventually(t, "v2", func() bool {
		head, _ := resolve(t, gw, r.IPNS)
		return w.verify(folder{gw, head}).Release().Version == "v2"
	})
}

func TestRenewedTargetsEnterTheSnapshotByThemselves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	opts := w.serveOptions()
	opts.DHT = DHTOff
	r, _ := w.serve(opts)
	w.nextTargets(2)
	gw := &gateway.Client{Base: r.HTTP[0]}
	eventually(t, "targets 2", func() bool {
		head, seq := resolve(t, gw, r.IPNS)
		_, err := folder{gw, head}.Metadata(t.Context(), "2.targets.json", 1<<20)
		return err == nil && seq == 2 && w.verify(folder{gw, head}).Release().Version == "v1"
	})
}

// A thief with the online key and the publisher's disk sets versions as high as they go.
func TestAttackFastForwardOnThePublisherIsMendedByANewOnlineKey(t *testing.T) {
	w := newWorld(t)
	release := w.sign(1, "v1", w.release)
	w.add(release)
	r, err := openRepo(t.Context(), w.repo())
	check(t, err)
	p, err := r.published(t.Context())
	check(t, err)
	p.snapshot.Signed.Version, p.timestamp.Signed.Version = 1<<53-2, 1<<53-2
	check(t, r.publish(t.Context(), w.onlineKey(), p, manifest.File{Role: "stable-x86_64", Version: 1, Data: release}, time.Now()))
	if v := w.verify(manifest.DirFetcher(w.repo())); v.TimestampVersion() != 1<<53-1 {
		t.Fatalf("timestamp %d", v.TimestampVersion())
	}
	w.online = newKey(t)
	w.nextRoot(2, w.root)
	if again := w.add(release); again.Timestamp != 1 || again.Snapshot != 1 {
		t.Errorf("got %+v", again)
	}
	w.verify(manifest.DirFetcher(w.repo()))
}

func TestARootThatMachinesWouldNotFollowIsNotPublished(t *testing.T) {
	for name, by := range map[string]func(w *world, heir ed25519.PrivateKey) []ed25519.PrivateKey{
		"signed by the new key alone": func(_ *world, heir ed25519.PrivateKey) []ed25519.PrivateKey { return []ed25519.PrivateKey{heir} },
		"signed by the old key alone": func(w *world, _ ed25519.PrivateKey) []ed25519.PrivateKey { return []ed25519.PrivateKey{w.root} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.add(w.sign(1, "v1", w.release))
			heir := newKey(t)
			keys := by(w, heir)
			w.root = heir
			w.nextRoot(2, keys...)
			before := snapshotOf(t, w.repo())
			_, err := Add(t.Context(), w.options(w.sign(2, "v2", w.release)))
			if !errors.Is(err, manifest.ErrSignature) || !strings.Contains(err.Error(), "2.root.json") {
				t.Errorf("got %v", err)
			}
			unchanged(t, before, snapshotOf(t, w.repo()))
		})
	}
}

func TestATimestampByNobodysKeyIsNotBuiltUpon(t *testing.T) {
	w := newWorld(t)
	w.add(w.sign(1, "v1", w.release))
	ts, err := manifest.Parse[metadata.TimestampType](manifest.KindTimestamp, w.read("repo/timestamp.json"))
	check(t, err)
	ts.Signatures = nil
	data, err := seal(manifest.KindTimestamp, ts, signer(t, newKey(t)))
	check(t, err)
	w.write("repo/timestamp.json", data)
	if _, err := Add(t.Context(), w.options(w.sign(2, "v2", w.release))); !errors.Is(err, manifest.ErrSignature) {
		t.Errorf("got %v", err)
	}
}

func TestAddTakesFromTheStoreWhatItHasAlready(t *testing.T) {
	w := newWorld(t)
	opts := w.options(w.sign(1, "v1", w.release))
	opts.Artifacts = ""
	if _, err := Add(t.Context(), opts); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a store: %v", err)
	}
	w.add(opts.Manifest)
	opts.Manifest = w.sign(2, "v2", w.release)
	added, err := Add(t.Context(), opts)
	if err != nil || added.Release != "v2" || added.NewBytes != 0 {
		t.Errorf("got %+v, %v", added, err)
	}
	w.write("artifacts/kernel", []byte("a kernel that the store has not"))
	opts.Manifest = w.sign(3, "v3", w.release)
	if _, err := Add(t.Context(), opts); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "--artifacts") {
		t.Errorf("got %v", err)
	}
}
