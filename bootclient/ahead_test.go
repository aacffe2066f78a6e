package bootclient_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/cache"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/netns"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

// running returns the release of a version of the repository's channel, as the hand-over has it.
func (r *repo) running(number int64) manifest.Release {
	r.t.Helper()
	d, err := manifest.Open(r.files[manifest.FileName("stable-x86_64", number)])
	ok(r.t, err)
	return *d.Release()
}

// second publishes a release whose rootfs shares nothing with the first one.
func (r *repo) second(size int) {
	r.t.Helper()
	r.release("2", map[string][]byte{"kernel": content(21, 300<<10), "initramfs": content(2, 700<<10), "rootfs": content(23, size)})
}

// aheadConfig is the configuration of a machine that runs from a cache, and finds a mirror.
func aheadConfig(t *testing.T, r *repo, cache, mirror string) bootclient.Config {
	t.Helper()
	mode, err := modes.Load("internet")
	ok(t, err)
	mode.Discovery = []string{"mirror"}
	return bootclient.Config{
		Root: r.root, Channel: "stable", Arch: "x86_64", Mode: mode, Cache: cache, Mirrors: []string{mirror}, Timeout: time.Minute,
		Report: report.New(time.Now(), testWriter{t}),
	}
}

// offline boots a release from a cache alone.
func offline(t *testing.T, r *repo, cache string) {
	t.Helper()
	m := newMachine(t, r, "private")
	m.cfg.Mode.Cache, m.cfg.Mode.Discovery, m.cfg.Cache = "ro", []string{"mirror"}, cache
	m.boots(r)
}

// A machine learns of a newer release, waits until it may fetch, fetches, and boots it without a source. Its running
// release stays whole; the roll-out, and a release that failed three times, decide as in a boot.
func TestAMachineFetchesTheNextReleaseAhead(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	cache := t.TempDir()
	filled(t, r, cache)
	first, running := r.frozen(), r.running(1)
	o := bootclient.AheadOptions{Running: running}
	ahead := func(want string, sent bool) {
		t.Helper()
		cfg, read := aheadConfig(t, r, cache, serve(t, r, nil).URL), int64(0)
		cfg.Progress = func(done, _ int64) { read = done }
		got, err := bootclient.FetchAhead(t.Context(), cfg, o)
		ok(t, err)
		if got.State != want || (got.Bytes > 4<<20) != sent || (read > 0) != sent || got.Offline {
			t.Fatalf("%+v, want %s; %d bytes read", got, want, read)
		}
	}
	ahead(bootclient.Current, false)
	r.second(5 << 20)
	o.MayFetch = func(rel manifest.Release) bool { return rel.Version != "2" }
	ahead(bootclient.Waiting, false)
	offline(t, first, cache)
	o.MayFetch = nil
	ahead(bootclient.Fetched, true)
	offline(t, r, cache)
	holdsAll(t, cache, running)
	o.MayFetch = func(manifest.Release) bool { return false }
	ahead(bootclient.Fetched, false) // it is there

	// the same release with newer metadata, which alone are saved
	r.restamp(r.files[manifest.FileName("snapshot", r.snap.Signed.Version)], 200*time.Hour)
	ahead(bootclient.Fetched, false)
	r.restamp(r.files[manifest.FileName("snapshot", r.snap.Signed.Version)], 300*time.Hour)
	o.Running = r.running(2)
	ahead(bootclient.Current, false)
	o.Running = running
	gone := serve(t, r, nil)
	gone.Close()
	cfg := aheadConfig(t, r, cache, gone.URL)
	cfg.Timeout = 2 * time.Second
	got, err := bootclient.FetchAhead(t.Context(), cfg, o)
	ok(t, err)
	if !got.Offline || got.State != bootclient.Fetched || got.Timestamp != r.stamp.Signed.Version {
		t.Errorf("without a source: %+v", got)
	}
}

// holdsAll checks that a cache has each block of a release, with the right bytes.
func holdsAll(t *testing.T, cache string, rel manifest.Release) {
	t.Helper()
	store, err := pack.Open(filepath.Join(cache, "blocks"), pack.Options{ReadOnly: true})
	ok(t, err)
	defer store.Close()
	for _, a := range rel.Artifacts {
		sum := sha256.New()
		if err := cas.Copy(t.Context(), io.Writer(sum), store, a.CID, a.Length); err != nil || hex.EncodeToString(sum.Sum(nil)) != a.SHA256 {
			t.Errorf("release %s, %s: %v", rel.Version, a.Role, err)
		}
	}
}

func TestAMachineOutsideOfARollOutFetchesNothingAhead(t *testing.T) {
	t.Parallel()
	first, second := rolledOut(t)
	cache := t.TempDir()
	filled(t, first, cache)
	cfg := aheadConfig(t, second, cache, serve(t, second, nil).URL)
	got, err := bootclient.FetchAhead(t.Context(), cfg, bootclient.AheadOptions{Running: first.running(1)})
	ok(t, err)
	if got.State != bootclient.Current || got.Release.Version != "1" {
		t.Errorf("outside: %+v", got)
	}
	cfg.Machine.Groups = []string{"canary"}
	got, err = bootclient.FetchAhead(t.Context(), cfg, bootclient.AheadOptions{Running: first.running(1)})
	ok(t, err)
	if got.State != bootclient.Fetched || got.Release.Version != "2" {
		t.Errorf("inside: %+v", got)
	}
}

func TestAReleaseThatFailedIsNotFetchedAhead(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	cache := t.TempDir()
	filled(t, r, cache)
	known := r.blessed(1)
	running := r.running(1)
	r.change = func(rel *manifest.Release) { rel.Bless = 600 }
	r.second(1 << 20)
	cfg := aheadConfig(t, r, cache, serve(t, r, nil).URL)
	cfg.Starts, cfg.Blessed = func(rel manifest.Release) (int, bool) {
		return map[string]int{"2": bootclient.MaxTries}[rel.Version], false
	}, []bootclient.Blessed{known}
	got, err := bootclient.FetchAhead(t.Context(), cfg, bootclient.AheadOptions{Running: running})
	ok(t, err)
	if got.State != bootclient.Current || got.Release.Version != "1" {
		t.Errorf("%+v", got)
	}
}

// Wrong answers: each is refused with its exit code, and the cache boots the running release afterwards.
func TestAFetchAheadRefuses(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	cache := t.TempDir()
	filled(t, r, cache)
	first, running := r.frozen(), r.running(1)
	r.second(1 << 20)
	lying := newRepo(t, "us", manifest.Discovery{})
	lying.number, lying.corrupt, lying.snap, lying.stamp = r.number, true, r.snap, r.stamp
	lying.second(1 << 20)
	lock, err := pack.Open(filepath.Join(cache, "blocks"), pack.Options{})
	ok(t, err)
	for _, test := range []struct {
		name   string
		of     *repo
		change func(*bootclient.Config, *bootclient.AheadOptions)
		code   int
		words  string
	}{
		{"another process writes", r, nil, cli.ExitFailed, "writes to it"},
		{"a signed sha256 is wrong", lying, nil, cli.ExitCorrupt, "sha256"},
		{"a private mode", r, func(c *bootclient.Config, _ *bootclient.AheadOptions) { c.Mode.Cache = "off" }, cli.ExitUsage, "no cache that may be written"},
		{"a read-only cache", r, func(c *bootclient.Config, _ *bootclient.AheadOptions) { c.Mode.Cache = "ro" }, cli.ExitUsage, "no cache that may be written"},
		{"a rate too low", r, func(_ *bootclient.Config, o *bootclient.AheadOptions) { o.Rate = 1 }, cli.ExitUsage, "at least 65536"},
	} {
		cfg, o := aheadConfig(t, r, cache, serve(t, test.of, nil).URL), bootclient.AheadOptions{Running: running}
		cfg.Timeout = 5 * time.Second
		if test.change != nil {
			test.change(&cfg, &o)
		}
		_, err := bootclient.FetchAhead(t.Context(), cfg, o)
		if cli.Code(err) != test.code || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: exit code %d: %v", test.name, cli.Code(err), err)
		}
		if lock != nil {
			ok(t, lock.Close())
			lock = nil
		}
		holdsAll(t, cache, running)
		offline(t, first, cache)
	}
}

// A release that an unknown key has signed is refused, and the machine stays as it is.
func TestAStrangersReleaseIsNotFetchedAhead(t *testing.T) {
	t.Parallel()
	r, thief := newRepo(t, "us", manifest.Discovery{}), newRepo(t, "them", manifest.Discovery{})
	cache := t.TempDir()
	filled(t, r, cache)
	thief.second(1 << 20)
	cfg := aheadConfig(t, r, cache, serve(t, thief, nil).URL)
	got, err := bootclient.FetchAhead(t.Context(), cfg, bootclient.AheadOptions{Running: r.running(1)})
	ok(t, err)
	refused := cfg.Report.Refused()
	if got.State != bootclient.Current || !got.Offline || len(refused) == 0 || !strings.Contains(refused[0].Why, "signed by 0 of 1") {
		t.Errorf("%+v, refused: %+v", got, refused)
	}
	offline(t, r, cache)
}

// The rate holds on average.
func TestAFetchAheadKeepsItsRate(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	cache := t.TempDir()
	filled(t, r, cache)
	running := r.running(1)
	r.second(6 << 20)
	begun := time.Now()
	got, err := bootclient.FetchAhead(t.Context(), aheadConfig(t, r, cache, serve(t, r, nil).URL), bootclient.AheadOptions{Running: running, Rate: 2 << 20})
	ok(t, err)
	took := time.Since(begun)
	if least := time.Duration(float64(got.Bytes-4<<20) / (2 << 20) * float64(time.Second)); took < least {
		t.Errorf("%d bytes in %s", got.Bytes, took)
	}
}

// A full disk keeps the running release, and the next one is refused in words.
func TestAFetchAheadNeverRemovesTheRunningRelease(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) { // for its mounts
		return
	}
	r := newRepo(t, "us", manifest.Discovery{})
	cache := filepath.Join(smallDisk(t, 64), "cache")
	r.release("0", map[string][]byte{"kernel": content(31, 300<<10), "initramfs": content(32, 700<<10), "rootfs": content(33, 12<<20)})
	filled(t, r, cache)
	r.release("1", map[string][]byte{"kernel": content(41, 300<<10), "initramfs": content(42, 700<<10), "rootfs": content(43, 12<<20)})
	filled(t, r, cache)
	first, running := r.frozen(), r.running(r.number)
	r.second(60 << 20)
	_, err := bootclient.FetchAhead(t.Context(), aheadConfig(t, r, cache, serve(t, r, nil).URL), bootclient.AheadOptions{Running: running})
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "are needed") {
		t.Fatalf("no room: %v", err)
	}
	holdsAll(t, cache, running)
	offline(t, first, cache)

	r.second(16 << 20) // the oldest release has to go
	got, err := bootclient.FetchAhead(t.Context(), aheadConfig(t, r, cache, serve(t, r, nil).URL), bootclient.AheadOptions{Running: running})
	ok(t, err)
	if got.State != bootclient.Fetched {
		t.Errorf("%+v", got)
	}
	holdsAll(t, cache, running)
	offline(t, r, cache)
}

// A release that is ready, and was not started yet, stays until a newer one has room beside it: the saved versions allow no older
// one. Without room nothing is removed.
func TestAFetchAheadKeepsTheReleaseThatIsReady(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) { // for its mounts
		return
	}
	r := newRepo(t, "us", manifest.Discovery{})
	folder := filepath.Join(smallDisk(t, 64), "cache")
	r.release("0", map[string][]byte{"kernel": content(31, 300<<10), "initramfs": content(32, 700<<10), "rootfs": content(33, 3<<20)})
	filled(t, r, folder)
	oldest := r.running(r.number)
	r.release("1", map[string][]byte{"kernel": content(41, 300<<10), "initramfs": content(42, 700<<10), "rootfs": content(43, 8<<20)})
	filled(t, r, folder)
	running := r.running(r.number)
	ahead := func() error {
		_, err := bootclient.FetchAhead(t.Context(), aheadConfig(t, r, folder, serve(t, r, nil).URL), bootclient.AheadOptions{Running: running})
		return err
	}
	r.second(12 << 20)
	ok(t, ahead())
	ready, second := r.frozen(), r.running(r.number)
	r.release("2", map[string][]byte{"kernel": content(51, 300<<10), "initramfs": content(52, 700<<10), "rootfs": content(53, 17<<20)})
	if err := ahead(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("no room: %v", err)
	}
	for _, rel := range []manifest.Release{oldest, running, second} {
		holdsAll(t, folder, rel)
	}
	offline(t, ready, folder)
}

// A fetch ahead ends at the first block that the disk does not take.
func TestAFetchAheadEndsWhenTheDiskIsFull(t *testing.T) {
	t.Parallel()
	if !netns.Inside(t) { // for its mounts
		return
	}
	r := newRepo(t, "us", manifest.Discovery{})
	disk := smallDisk(t, 96)
	folder := filepath.Join(disk, "cache")
	filled(t, r, folder)
	old, running := r.frozen(), r.running(1)
	r.second(24 << 20)
	var fill atomic.Bool
	s := serve(t, r, func(w http.ResponseWriter, req *http.Request, good http.Handler) {
		if strings.Contains(req.URL.Path, r.cids["rootfs"].String()) && fill.CompareAndSwap(false, true) { // after the check for room
			time.AfterFunc(200*time.Millisecond, func() { _ = os.WriteFile(filepath.Join(disk, "other"), make([]byte, 96<<20), 0o600) })
		}
		good.ServeHTTP(w, req)
	})
	_, err := bootclient.FetchAhead(t.Context(), aheadConfig(t, r, folder, s.URL), bootclient.AheadOptions{Running: running, Rate: 4 << 20})
	if err == nil || !strings.Contains(err.Error(), "cache: disk full") {
		t.Errorf("a full disk: %v", err)
	}
	holdsAll(t, folder, running)
	offline(t, old, folder)
}

// An old copy of the cache, with metadata that are still valid, is refused by a machine that runs a newer release; a signed
// rollback, which is newer metadata, is not.
func TestAFetchAheadRefusesWhatIsOlderThanTheRunningRelease(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	folder := t.TempDir()
	filled(t, r, folder)
	old := r.frozen()
	old.files = maps.Clone(r.files)
	r.second(1 << 20)
	o := bootclient.AheadOptions{Running: r.running(2)}
	_, err := bootclient.FetchAhead(t.Context(), aheadConfig(t, r, folder, serve(t, old, nil).URL), o)
	if !errors.Is(err, manifest.ErrRollback) || !strings.Contains(err.Error(), "role version 1, and this machine runs version 2") {
		t.Errorf("older than the running release: %v", err)
	}
	r.release("1", old.signed)
	got, err := bootclient.FetchAhead(t.Context(), aheadConfig(t, r, folder, serve(t, r, nil).URL), o)
	ok(t, err)
	if got.State != bootclient.Fetched || got.Release.Version != "1" {
		t.Errorf("a signed rollback: %+v", got)
	}
}

// A machine that waits for its window refuses what is older than what it has seen, although its cache does not know that yet.
func TestAMachineThatWaitsRefusesAReplay(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	folder := t.TempDir()
	filled(t, r, folder)
	o := bootclient.AheadOptions{Running: r.running(1), MayFetch: func(manifest.Release) bool { return false }, Seen: new(bootclient.Seen)}
	look := func(r *repo) (bootclient.Ahead, error) {
		return bootclient.FetchAhead(t.Context(), aheadConfig(t, r, folder, serve(t, r, nil).URL), o)
	}
	r.second(1 << 20)
	second := r.frozen()
	second.files = maps.Clone(r.files)
	r.release("3", r.signed)
	for range 2 {
		got, err := look(r)
		ok(t, err)
		if got.State != bootclient.Waiting || got.Release.Version != "3" {
			t.Fatalf("%+v", got)
		}
	}
	if got, err := look(second); !errors.Is(err, manifest.ErrRollback) {
		t.Errorf("a replay: %+v, %v", got, err)
	}
	r.replaceReleaser()
	r.number--
	r.release("2b", r.signed) // a change of keys recovers from a version that was set too high
	if got, err := look(r); err != nil || got.Release.Version != "2b" {
		t.Errorf("other keys: %+v, %v", got, err)
	}
}

// aheadChild names the environment variables with which the test binary is the process that is killed.
const aheadChild = "PHASE_AHEAD_CACHE"

// A process that fetches ahead is killed again and again, at random moments. After each one the cache is sound, boots the
// running release, and the fetch goes on where it was; in the end the next release boots.
func TestAKilledFetchAheadLosesNothing(t *testing.T) {
	if cache := os.Getenv(aheadChild); cache != "" {
		aheadProcess(t, cache)
		return
	}
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	cache := t.TempDir()
	filled(t, r, cache)
	first, running := r.frozen(), r.running(1)
	r.second(24 << 20)
	var asked atomic.Int64
	s := serve(t, r, func(w http.ResponseWriter, req *http.Request, good http.Handler) {
		asked.Add(1)
		good.ServeHTTP(w, req)
	})
	inputs := t.TempDir()
	ok(t, os.WriteFile(filepath.Join(inputs, "root.json"), r.root, 0o600))
	ok(t, os.WriteFile(filepath.Join(inputs, "role.json"), r.files[manifest.FileName("stable-x86_64", 1)], 0o600))
	killed := 0
	for range 10 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestAKilledFetchAheadLosesNothing$")
		cmd.Env = append(os.Environ(), aheadChild+"="+cache, "PHASE_AHEAD_INPUTS="+inputs, "PHASE_AHEAD_MIRROR="+s.URL)
		ok(t, cmd.Start())
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		begun := asked.Load()
		waitUntil(t, func() bool { return asked.Load() > begun || len(ended) > 0 })
		time.Sleep(rand.N(300 * time.Millisecond))
		_ = cmd.Process.Kill()
		if err := <-ended; err != nil {
			killed++
		}
		fsckClean(t, cache)
		holdsAll(t, cache, running)
		if !bytes.Equal(savedRecord(t, r, cache), r.record) {
			offline(t, first, cache)
		}
	}
	if killed < 3 {
		t.Errorf("only %d processes were killed in time", killed)
	}
	got, err := bootclient.FetchAhead(t.Context(), aheadConfig(t, r, cache, s.URL), bootclient.AheadOptions{Running: running})
	ok(t, err)
	if got.State != bootclient.Fetched {
		t.Errorf("%+v", got)
	}
	offline(t, r, cache)
	holdsAll(t, cache, running)
}

// aheadProcess is the process that is killed.
func aheadProcess(t *testing.T, folder string) {
	inputs := os.Getenv("PHASE_AHEAD_INPUTS")
	root, err := os.ReadFile(filepath.Join(inputs, "root.json"))
	ok(t, err)
	role, err := os.ReadFile(filepath.Join(inputs, "role.json"))
	ok(t, err)
	d, err := manifest.Open(role)
	ok(t, err)
	cfg := bootclient.Config{
		Root: root, Channel: "stable", Arch: "x86_64", Mode: swarmMode, Cache: folder, Mirrors: []string{os.Getenv("PHASE_AHEAD_MIRROR")}, Timeout: time.Minute,
	}
	_, err = bootclient.FetchAhead(t.Context(), cfg, bootclient.AheadOptions{Running: *d.Release(), Rate: 12 << 20})
	ok(t, err)
}

func savedRecord(t *testing.T, r *repo, folder string) []byte {
	t.Helper()
	record, err := cache.Dir(folder).ReadRecord(r.ipns)
	ok(t, err)
	return record
}

// fsckClean opens a cache as the next writer does, and checks every byte of it.
func fsckClean(t *testing.T, folder string) {
	t.Helper()
	blocks := cache.Dir(folder).Blocks()
	store, err := pack.Open(blocks, pack.Options{})
	ok(t, err)
	ok(t, store.Close())
	_, err = pack.Fsck(t.Context(), blocks, func(d pack.Damage) { t.Errorf("%+v", d) }, nil)
	ok(t, err)
}

// asks signs settings for a machine.
func (r *repo) asks(selector string, s manifest.Settings) {
	r.t.Helper()
	targets, err := manifest.NewTargets(r.targets.Version+1, time.Now().Add(900*time.Hour),
		manifest.Delegation{Channel: "stable", Arch: "x86_64", Keys: public(r.releaser), Threshold: 1},
		manifest.Delegation{Channel: manifest.ConfigRole, Keys: public(r.owner + "-config"), Threshold: 1})
	ok(r.t, err)
	r.targets = manifest.File{Role: "targets", Version: r.targets.Version + 1, Data: sign(r.t, targets, r.owner)}
	r.files[manifest.FileName("targets", r.targets.Version)] = r.targets.Data
	root, err := manifest.ParseRoot(r.root)
	ok(r.t, err)
	role, err := manifest.EncodeConfig(manifest.Config{
		Repository: root.Repository(), Number: r.targets.Version, SignedAt: time.Now().Add(-time.Minute), Expires: time.Now().Add(100 * time.Hour),
		Settings: map[string]manifest.Settings{selector: s},
	})
	ok(r.t, err)
	r.publish(manifest.File{Role: manifest.ConfigRole, Version: r.targets.Version, Data: sign(r.t, role, r.owner+"-config")})
}

// A signed wish for a release is obeyed outside of the window, by the machine that it names and for that version alone.
func TestAPreheatIsObeyedOutsideOfTheWindow(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	cache := t.TempDir()
	filled(t, r, cache)
	o := bootclient.AheadOptions{Running: r.running(1), MayFetch: func(manifest.Release) bool { return false }}
	r.second(1 << 20)
	const named = "mac-525400123456"
	look := func(selector, want string) {
		t.Helper()
		cfg := aheadConfig(t, r, cache, serve(t, r, nil).URL)
		cfg.Machine.Selectors = []string{selector}
		got, err := bootclient.FetchAhead(t.Context(), cfg, o)
		ok(t, err)
		if got.State != want || got.Preheat != (want == bootclient.Fetched) {
			t.Errorf("%s: %+v, want %s", selector, got, want)
		}
	}
	look(named, bootclient.Waiting)
	r.asks(named, manifest.Settings{Preheat: "3"})
	look(named, bootclient.Waiting)
	r.asks(named, manifest.Settings{Preheat: "2"})
	look("mac-525400654321", bootclient.Waiting)
	look(named, bootclient.Fetched)
}
