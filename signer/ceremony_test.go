package signer

import (
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/bootfile/bootfiletest"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/signer/key"
)

var noon = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// A bench is a repository with the keys of all its roles.
type bench struct {
	dir                         string
	root, release, online, ipns key.Key
}

// another makes a second repository under the very same keys.
func (b bench) another(t testing.TB) bench {
	t.Helper()
	b.dir = t.TempDir()
	b.init(t)
	return b
}

func (b bench) path(name string) string { return filepath.Join(b.dir, name) }

func newBench(t testing.TB) bench {
	t.Helper()
	dir := t.TempDir()
	b := bench{dir: dir}
	b.root = newKey(t, b.path("root.key"))
	b.release = newKey(t, b.path("release.key"))
	b.online = newKey(t, b.path("online.key"))
	b.ipns = newKey(t, b.path("ipns.key"))
	b.init(t)
	return b
}

// newKey makes a key file without a passphrase.
func newKey(t testing.TB, path string) key.Key {
	t.Helper()
	k, err := key.Generate(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (b bench) init(t testing.TB) {
	t.Helper()
	_, err := Init(t.Context(), InitSpec{
		Dir: b.dir, Root: []key.Key{b.root}, RootThreshold: 1,
		Release: []ed25519.PublicKey{b.release.Public()}, ReleaseThreshold: 1,
		Online: b.online.Public(), IPNS: b.ipns.Public(), Channels: []string{"stable"}, Archs: []string{"x86_64", "arm64"},
		Now: noon, RootLifetime: 1000 * time.Hour, TargetsLifetime: 500 * time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.write(t, "vmlinuz", bootfiletest.Kernel("x86_64", ""))
	b.write(t, "initrd", bootfiletest.Initramfs(""))
}

func (b bench) spec() ReleaseSpec {
	return ReleaseSpec{
		ManifestSpec: ManifestSpec{
			Repo: b.dir, Channel: "stable", Arch: "x86_64", Lifetime: 100 * time.Hour,
			Keys: []key.Key{b.release}, Out: b.path("RELEASE.json"), Now: noon,
		},
		Version: "1", Kernel: b.path("vmlinuz"), Initramfs: b.path("initrd"), Chunker: cas.DefaultChunker,
	}
}

func (b bench) mustRelease(t testing.TB) {
	t.Helper()
	if _, err := Release(t.Context(), b.spec()); err != nil {
		t.Fatal(err)
	}
}

func (b bench) write(t testing.TB, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(b.path(name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// writeRoot puts another root into the repository, signed by keys.
func (b bench) writeRoot(t *testing.T, version int64, owner key.Key, keys ...key.Key) {
	t.Helper()
	first, err := openDocument(b.path("1.root.json"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := manifest.NewRoot(manifest.RootSpec{
		Repository: first.Repository(), Version: version, Root: []ed25519.PublicKey{owner.Public()}, Threshold: 1,
		Online: []ed25519.PublicKey{b.online.Public()}, Expires: noon.Add(2000 * time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if _, err := manifest.Sign(root, k.Signer()); err != nil {
			t.Fatal(err)
		}
	}
	data, err := manifest.Bytes(manifest.KindRoot, root)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.path(manifest.FileName("root", version)), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestVerifyChecksExpiry(t *testing.T) {
	b := newBench(t)
	b.mustRelease(t)
	for name, c := range map[string]struct {
		file string
		at   time.Duration
		want error
	}{
		"release in time":      {"RELEASE.json", 99 * time.Hour, nil},
		"release too late":     {"RELEASE.json", 101 * time.Hour, manifest.ErrExpired},
		"delegations too late": {"RELEASE.json", 501 * time.Hour, manifest.ErrExpired},
		"root too late":        {"1.root.json", 1001 * time.Hour, manifest.ErrExpired},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Verify(t.Context(), VerifySpec{Root: b.path(RootName), Files: []string{b.path(c.file)}, Now: noon.Add(c.at)})
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestNothingExpiredIsSigned(t *testing.T) {
	b := newBench(t)
	b.mustRelease(t)
	late := noon.Add(101 * time.Hour)
	if _, err := Add(t.Context(), AddSpec{File: b.path("RELEASE.json"), Keys: []key.Key{b.release}, Now: late}); !errors.Is(err, manifest.ErrExpired) {
		t.Errorf("add to an expired release: %v", err)
	}
	s := b.spec()
	s.Now = noon.Add(501 * time.Hour)
	if _, err := Release(t.Context(), s); !errors.Is(err, manifest.ErrExpired) {
		t.Errorf("release under expired delegations: %v", err)
	}
}

func TestNoReleaseFromTheFutureIsSigned(t *testing.T) {
	b := newBench(t)
	b.mustRelease(t)
	add := func(now time.Time) error {
		_, err := Add(t.Context(), AddSpec{File: b.path("RELEASE.json"), Keys: []key.Key{b.release}, Now: now})
		return err
	}
	if err := add(noon.Add(-11 * time.Minute)); !errors.Is(err, manifest.ErrUntrusted) || !strings.Contains(err.Error(), "signed at 2026-11-01 12:00:00 UTC, and it is 2026-11-01 11:49:00 UTC") {
		t.Errorf("signed eleven minutes from now: %v", err)
	}
	if err := add(noon.Add(-10 * time.Minute)); err != nil {
		t.Errorf("by a clock that differs a little: %v", err)
	}
}

func TestVerifyFollowsNewerRootsSignedByTheOld(t *testing.T) {
	b := newBench(t)
	heir := newKey(t, b.path("heir.key"))
	b.writeRoot(t, 2, heir, b.root, heir)
	files := []string{b.path("2.root.json"), b.path("1.root.json")}
	trustOld := VerifySpec{Root: b.path(RootName), Files: files[:1], Now: noon}
	// Root 2 does not list the key that signed the targets of root 1.
	if _, err := Verify(t.Context(), trustOld); !errors.Is(err, manifest.ErrSignature) {
		t.Errorf("targets by keys that root 2 dropped: %v", err)
	}
	if _, err := Add(t.Context(), AddSpec{File: b.path("1.targets.json"), Keys: []key.Key{heir}, Now: noon}); err != nil {
		t.Fatal(err)
	}
	sums, err := Verify(t.Context(), trustOld)
	if err != nil || !sums.Files[0].Complete() {
		t.Fatalf("root 2: %+v, %v", sums, err)
	}
	if _, err := Verify(t.Context(), VerifySpec{Root: files[0], Files: files[1:], Now: noon}); !errors.Is(err, manifest.ErrRollback) {
		t.Errorf("root 1 under root 2: %v", err)
	}
}

func TestVerifyRefusesARootThatTheOldDidNotSign(t *testing.T) {
	b := newBench(t)
	attacker := newKey(t, b.path("attacker.key"))
	b.writeRoot(t, 2, attacker, attacker)
	_, err := Verify(t.Context(), VerifySpec{Root: b.path(RootName), Files: []string{b.path("2.root.json")}, Now: noon})
	if !errors.Is(err, manifest.ErrSignature) {
		t.Errorf("got %v, want ErrSignature", err)
	}
}

// Every function refuses a repository whose files have the wrong names, also those that verify no
// signature.
func TestAFileThatDoesNotMatchItsNameIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ from, to string }{
		"the root again as the next":  {"1.root.json", "2.root.json"},
		"targets as the next root":    {"1.targets.json", "2.root.json"},
		"a root as targets":           {"root.json", "1.targets.json"},
		"a release as targets":        {"RELEASE.json", "1.targets.json"},
		"old targets as the next":     {"1.targets.json", "2.targets.json"},
		"a release as the next root":  {"RELEASE.json", "2.root.json"},
		"the root as the next target": {"1.root.json", "2.targets.json"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.mustRelease(t)
			data, err := os.ReadFile(b.path(c.from))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(b.path(c.to), data, 0o600); err != nil {
				t.Fatal(err)
			}
			_, show := Show(ShowSpec{File: b.path("RELEASE.json"), Repo: b.dir})
			_, add := Add(t.Context(), AddSpec{File: b.path("RELEASE.json"), Repo: b.dir, Keys: []key.Key{b.release}, Now: noon})
			_, verify := Verify(t.Context(), VerifySpec{Root: b.path("root.json"), Files: []string{b.path("RELEASE.json")}, Now: noon})
			_, release := Release(t.Context(), b.spec())
			for verb, err := range map[string]error{"show": show, "add": add, "verify": verify, "release": release} {
				if !errors.Is(err, manifest.ErrUntrusted) || !strings.Contains(err.Error(), c.to) {
					t.Errorf("%s: %v, want a refusal of %s", verb, err, c.to)
				}
			}
		})
	}
}

func TestSignaturesAddedAtTheSameTimeAllStay(t *testing.T) {
	b := newBench(t)
	keys := []key.Key{b.root, newKey(t, b.path("second.key")), newKey(t, b.path("third.key"))}
	dir := b.path("three")
	_, err := Init(t.Context(), InitSpec{
		Dir: dir, Root: publicOnly(t, keys), RootThreshold: 3, Release: []ed25519.PublicKey{b.release.Public()}, ReleaseThreshold: 1,
		Online: b.online.Public(), IPNS: newKey(t, b.path("name.key")).Public(),
		Channels: []string{"stable"}, Archs: []string{"x86_64"}, Now: noon, RootLifetime: time.Hour, TargetsLifetime: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	for i, k := range keys {
		name := []string{"1.root.json", "root.json", "1.root.json"}[i] // two names of one root
		g.Go(func() error {
			_, err := Add(t.Context(), AddSpec{File: filepath.Join(dir, name), Keys: []key.Key{k}, Now: noon})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"1.root.json", "root.json"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := manifest.ParseRoot(data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// publicOnly returns the keys without their private halves.
func publicOnly(t *testing.T, keys []key.Key) []key.Key {
	t.Helper()
	var list []key.Key
	for _, k := range keys {
		public, err := key.LoadListed(t.Context(), k.Name()+".pub", nil)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, public)
	}
	return list
}

func TestAddToTheNextRootTakesOldAndNewKeysOnly(t *testing.T) {
	b := newBench(t)
	heir := newKey(t, b.path("heir.key"))
	b.writeRoot(t, 2, heir, heir)
	file := b.path("2.root.json")
	if _, err := Add(t.Context(), AddSpec{File: file, Keys: []key.Key{b.release}, Now: noon}); !errors.Is(err, manifest.ErrSignature) {
		t.Errorf("a release key: %v", err)
	}
	if _, err := Add(t.Context(), AddSpec{File: file, Keys: []key.Key{b.root}, Now: noon}); err != nil {
		t.Errorf("the old root key: %v", err)
	}
	before, err := os.ReadFile(b.path(RootName))
	if err != nil {
		t.Fatal(err)
	}
	if first, err := os.ReadFile(b.path("1.root.json")); err != nil || string(first) != string(before) {
		t.Errorf("root.json is no longer root 1: %v", err)
	}
}
