package bootclient_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/imagebuild/modes"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/manifest"
)

// filled is a machine that fetched the newest release into a cache and is gone.
func filled(t *testing.T, r *repo, cache string) bootclient.Config {
	t.Helper()
	s := serve(t, r, nil)
	m := newMachine(t, r, "private")
	m.cfg.Mode, m.cfg.Cache, m.cfg.Mirrors = herd, cache, []string{s.URL}
	m.boots(r)
	s.CloseClientConnections()
	s.Close()
	return bootclient.Config{Root: r.root, Channel: "stable", Arch: "x86_64", Mode: herd, Cache: cache}
}

// seeds runs a seed until the test ends or stop is called.
func seeds(t *testing.T, cfg bootclient.Config) (r bootclient.Ready, stop func() error) {
	t.Helper()
	ready := make(chan bootclient.Ready, 1)
	cfg.Ready = func(r bootclient.Ready) { ready <- r }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- bootclient.Seed(ctx, cfg) }()
	t.Cleanup(cancel)
	select {
	case r = <-ready:
	case err := <-ended:
		t.Fatalf("the seed ended: %v", err)
	}
	return r, func() error { cancel(); return <-ended }
}

func TestAMachineBootsFromTheCacheOfAnother(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	cache := t.TempDir()
	ready, stop := seeds(t, filled(t, r, cache))
	if ready.Release != "1" || ready.Head != r.head.String() {
		t.Errorf("it serves %+v", ready)
	}
	origin := loopback(t, ready)
	for role, c := range r.cids {
		leaves, err := cas.Leaves(t.Context(), r.store, c, int64(len(r.signed[role])))
		ok(t, err)
		if n := ones(have(t, origin, c)); n != len(leaves) {
			t.Errorf("%s: %d of %d leaves", role, n, len(leaves))
		}
	}
	b := newMachine(t, r, "private")
	b.cfg.Mirrors = []string{origin}
	b.boots(r)

	// what the cache learns meanwhile is given too
	r.release("2", map[string][]byte{"kernel": content(1, 300<<10), "initramfs": content(2, 700<<10), "rootfs": content(5, 1<<20)})
	filled(t, r, cache)
	waitUntil(t, func() bool { return have(t, origin, r.cids["rootfs"]) != nil })
	b = newMachine(t, r, "private")
	b.cfg.Mirrors = []string{origin}
	b.boots(r)
	ok(t, stop())
}

// A fetch remembers the head before it has the blocks. A seed that looks in between goes
// on with what it has, and takes up the rest once it is there.
func TestASeedTakesUpAReleaseThatIsStillBeingFetched(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	cfg := filled(t, r, t.TempDir())
	lines := make(logLines, 16)
	cfg.Log = slog.New(slog.NewTextHandler(lines, nil))
	ready, _ := seeds(t, cfg)
	origin := loopback(t, ready)

	r.release("2", map[string][]byte{"kernel": content(1, 300<<10), "initramfs": content(2, 700<<10), "rootfs": content(5, 1<<20)})
	leaves, err := cas.Leaves(t.Context(), r.store, r.cids["rootfs"], int64(len(r.signed["rootfs"])))
	ok(t, err)
	held := &slow{leaves: map[string]bool{}, opened: make(chan struct{}), left: 3, gave: map[string]bool{}}
	for _, l := range leaves {
		held.leaves[l.CID.String()] = true
	}
	m := newMachine(t, r, "private")
	m.cfg.Mode, m.cfg.Cache, m.cfg.Mirrors = herd, cfg.Cache, []string{serve(t, r, held.bend).URL}
	fetched := make(chan error, 1)
	go func() { fetched <- m.fetch(t.Context()) }()
	for line := range lines {
		if strings.Contains(line, "goes on with what it had") {
			break
		}
	}
	close(held.opened)
	ok(t, <-fetched)
	waitUntil(t, func() bool { return ones(have(t, origin, r.cids["rootfs"])) == len(leaves) })
}

// logLines passes on what is logged, as long as there is room.
type logLines chan string

func (l logLines) Write(b []byte) (int, error) {
	select {
	case l <- string(b):
	default:
	}
	return len(b), nil
}

func TestASeedRefusesWhatItWouldNotBoot(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	honest := filled(t, r, t.TempDir())
	head, err := os.ReadFile(filepath.Join(honest.Cache, "heads", r.ipns+".ipns-record"))
	ok(t, err)
	stranger := newRepo(t, "stranger", manifest.Discovery{})
	for name, tt := range map[string]struct {
		bend func(t *testing.T, c *bootclient.Config)
		code int
	}{
		"an empty cache":          {func(t *testing.T, c *bootclient.Config) { c.Cache = t.TempDir() }, 4},
		"no cache":                {func(_ *testing.T, c *bootclient.Config) { c.Cache = "" }, 2},
		"a release of a stranger": {func(t *testing.T, c *bootclient.Config) { *c = filled(t, stranger, t.TempDir()); c.Root = r.root }, 3},
		"an expired release": {func(_ *testing.T, c *bootclient.Config) {
			c.Now = func() time.Time { return time.Now().Add(200 * time.Hour) }
		}, 3},
		"a record that was cut": {func(t *testing.T, c *bootclient.Config) {
			*c = filled(t, r, t.TempDir())
			ok(t, os.WriteFile(filepath.Join(c.Cache, "heads", r.ipns+".ipns-record"), head[:len(head)/2], 0o600))
		}, 3},
		"another channel": {func(_ *testing.T, c *bootclient.Config) { c.Channel = "testing" }, 4},
		"private":         {func(t *testing.T, c *bootclient.Config) { m, err := modes.Load("private"); ok(t, err); c.Mode = m }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := honest
			tt.bend(t, &cfg)
			cfg.Ready = func(bootclient.Ready) { t.Error("it serves") }
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			err := bootclient.Seed(ctx, cfg)
			if cli.Code(err) != tt.code {
				t.Errorf("exit code %d, want %d: %v", cli.Code(err), tt.code, err)
			}
		})
	}
	if _, stop := seeds(t, honest); stop() != nil {
		t.Error("the honest cache is not served")
	}
}

// A cache that is only read is not written by a seed, not even a lock.
func TestASeedWritesNothing(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	cfg := filled(t, r, t.TempDir())
	before := tree(t, cfg.Cache)
	_, stop := seeds(t, cfg)
	ok(t, stop())
	if after := tree(t, cfg.Cache); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// tree lists a folder with sizes and times.
func tree(t *testing.T, dir string) string {
	t.Helper()
	out := ""
	ok(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		out += path + " " + info.ModTime().String() + " " + info.Mode().String() + "\n"
		return err
	}))
	return out
}
