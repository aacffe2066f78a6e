package bootclient_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas/pack"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/file/filetest"
	"github.com/phaseboot/phaseboot/manifest"
)

// With any kind of file in the place of a cache file, a boot that may write the cache, a boot
// that may only read it, and a seed all end, and no file outside the cache is touched. Both
// boots succeed, and after the writing boot the cache works again.
func TestEveryKindOfFileInACache(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	r.release("small", map[string][]byte{"kernel": content(1, 30<<10), "initramfs": content(2, 70<<10), "rootfs": content(3, 500<<10)}) // hundreds of boots
	mirror := serve(t, r, nil).URL
	master := t.TempDir()
	boot := func(t *testing.T, cache, rights string) *machine {
		m := newMachine(t, r, "internet")
		m.cfg.Mode.Discovery, m.cfg.Mode.Cache = []string{"mirror"}, rights
		m.cfg.Cache, m.cfg.Mirrors = cache, []string{mirror}
		m.boots(r)
		return m
	}
	boot(t, master, "rw")
	records, err := filepath.Glob(filepath.Join(master, "heads", "*"))
	if err != nil || len(records) != 1 {
		t.Fatalf("%q, %v", records, err)
	}
	record := "heads/" + filepath.Base(records[0])
	cells := 0
	for _, kind := range filetest.Kinds() {
		for _, name := range []string{"blocks", "trust", "heads", "blocks/lock", "blocks/pack-00000001.car", "blocks/pack-00000001.idx", "blocks/packs.idx", record} {
			cells++
			t.Run(kind.Name+"/"+strings.Replace(name, filepath.Base(records[0]), "record", 1), func(t *testing.T) {
				t.Parallel()
				if kind.Name == "unreadable" && os.Getuid() != 0 {
					return // another user lacks a right: TestANamedCacheThatIsUnusableIsAnError
				}
				cache := filepath.Join(t.TempDir(), "cache")
				path := filepath.Join(cache, filepath.FromSlash(name))
				if err := errors.Join(os.CopyFS(cache, os.DirFS(master)), os.RemoveAll(path), kind.Make(path, filetest.Outside(t))); err != nil {
					t.Fatal(err)
				}
				filetest.Ends(t, func() {
					seedOnce(t, r, cache)
					boot(t, cache, "ro")
					boot(t, cache, "rw")
					again := boot(t, cache, "rw")
					for _, s := range again.report.Sources() {
						if s.Kind != "cache" && s.Bytes > 64<<10 {
							t.Errorf("the cache does not work: %d bytes come from %s again", s.Bytes, s.Name)
						}
					}
					for _, refused := range again.report.Refused() {
						if refused.Source == "cache" {
							t.Errorf("each boot says again: %v", refused)
						}
					}
				})
			})
		}
	}
	t.Logf("%d cells", cells)
}

// seedOnce seeds a cache until it serves.
func seedOnce(t *testing.T, r *repo, cache string) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cfg := bootclient.Config{Root: r.root, Channel: "stable", Arch: "x86_64", Mode: swarmMode, Cache: cache, Ready: func(report.Ready) { cancel() }}
	if err := bootclient.Seed(ctx, cfg); err != nil {
		if code := cli.Code(err); code != cli.ExitCorrupt && code != cli.ExitNotFound && code != cli.ExitUntrusted {
			t.Errorf("seed: exit code %d: %v", code, err)
		}
	}
}

// An unusable cache is an error if a person named it. Otherwise the boot continues without it.
func TestANamedCacheThatIsUnusableIsAnError(t *testing.T) {
	t.Parallel()
	if os.Getuid() == 0 { // root may write every file
		asNobody(t)
		return
	}
	r := newRepo(t, "us", manifest.Discovery{})
	mirror := serve(t, r, nil).URL
	for name, c := range map[string]struct {
		spoil func(cache string) error
		code  int
		words string
	}{
		"a link in the place of the blocks": {func(c string) error { return os.Symlink(t.TempDir(), filepath.Join(c, "blocks")) }, cli.ExitCorrupt, "is a symbolic link, not a folder"},
		"a file in the place of the state":  {func(c string) error { return os.WriteFile(filepath.Join(c, "trust"), nil, 0o600) }, cli.ExitCorrupt, "is a file, not a folder"},
		"not writable":                      {func(c string) error { return os.Chmod(c, 0o500) }, cli.ExitFailed, "not writable for this user"},
	} {
		t.Run(name, func(t *testing.T) {
			cache := t.TempDir()
			if err := c.spoil(cache); err != nil {
				t.Fatal(err)
			}
			m := newMachine(t, r, "internet")
			m.cfg.Mode.Discovery, m.cfg.Mode.Cache = []string{"mirror"}, "rw"
			m.cfg.Cache, m.cfg.Mirrors, m.cfg.CacheWanted = cache, []string{mirror}, true
			m.refuses(c.code, c.words)
			found := newMachine(t, r, "internet")
			found.cfg = m.cfg
			found.cfg.CacheWanted = false
			found.boots(r)
		})
	}
}

// asNobody runs the test again as a user without rights on other users' files.
func asNobody(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Dir, cmd.Env = "/", []string{"TMPDIR=/tmp", "HOME=/nonexistent"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()+" ") {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

// A disk that does not answer costs the blocks on it, and does not end the boot.
func TestACacheThatDoesNotOpenIsSkipped(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	release := make(chan struct{})
	defer close(release)
	m := newMachine(t, r, "internet")
	m.cfg.OpenPacksWith(func(context.Context, string, pack.Options) (*pack.Store, error) {
		<-release
		return nil, errors.New("too late")
	})
	m.cfg.Mode.Discovery, m.cfg.Mode.Cache = []string{"mirror"}, "rw"
	m.cfg.Cache, m.cfg.Mirrors = t.TempDir(), []string{serve(t, r, nil).URL}
	m.cfg.OpenCacheWithin(10 * time.Millisecond)
	m.boots(r)
	said := false
	for _, refused := range m.report.Refused() {
		said = said || strings.Contains(refused.Why, "not open in time") && strings.Contains(refused.Why, "the boot continues without it")
	}
	if !said {
		t.Errorf("the report does not say it: %v", m.report.Refused())
	}
}
