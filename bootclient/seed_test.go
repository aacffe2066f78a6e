package bootclient_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/cli"
	"github.com/phaseboot/phaseboot/internal/gateway"
	"github.com/phaseboot/phaseboot/internal/p2p"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

// filled fetches the newest release into a cache and stops the mirror.
func filled(t *testing.T, r *repo, cache string) bootclient.Config {
	t.Helper()
	s := serve(t, r, nil)
	m := newMachine(t, r, "private")
	m.cfg.Mode, m.cfg.Cache, m.cfg.Mirrors = swarmMode, cache, []string{s.URL}
	m.boots(r)
	s.CloseClientConnections()
	s.Close()
	return bootclient.Config{Root: r.root, Channel: "stable", Arch: "x86_64", Mode: swarmMode, Cache: cache}
}

// seeds runs a seed until the test ends or stop is called.
func seeds(t *testing.T, cfg bootclient.Config) (r report.Ready, stop func() error) {
	t.Helper()
	ready := make(chan report.Ready, 1)
	cfg.Ready = func(r report.Ready) { ready <- r }
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
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	cache := t.TempDir()
	ready, stop := seeds(t, filled(t, r, cache))
	if ready.Release != "1" || ready.Head != r.directory.String() {
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

	// the seed serves new blocks of the cache too
	r.release("2", map[string][]byte{"kernel": content(1, 300<<10), "initramfs": content(2, 700<<10), "rootfs": content(5, 1<<20)})
	filled(t, r, cache)
	waitUntil(t, func() bool { return have(t, origin, r.cids["rootfs"]) != nil })
	b = newMachine(t, r, "private")
	b.cfg.Mirrors = []string{origin}
	b.boots(r)
	ok(t, stop())
}

// kept fetches the newest release without a cache and stops the mirror. The result names the
// folder of Config.Keep and the output folder.
func kept(t *testing.T, r *repo, mode modes.Mode) bootclient.Config {
	t.Helper()
	s := serve(t, r, nil)
	_, address := node(t, p2p.Options{}, s.Config.Handler)
	m := newMachine(t, r, "private")
	m.cfg.Mode, m.cfg.Share, m.cfg.Mirrors, m.cfg.Peers, m.cfg.Keep = mode, true, []string{s.URL}, []string{address}, filepath.Join(t.TempDir(), "kept")
	m.boots(r)
	s.CloseClientConnections()
	s.Close()
	return bootclient.Config{Root: r.root, Channel: "stable", Arch: "x86_64", Mode: swarmMode, Cache: m.cfg.Keep, Artifacts: m.out}
}

func TestAMachineBootsFromOneWithoutACache(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	cfg := kept(t, r, swarmMode)
	if size := folderSize(t, cfg.Cache); size > 64<<10 {
		t.Errorf("%d bytes were kept beside the artifacts", size)
	}
	cfg.Mode.Cache = "off" // the mode of such a machine
	ready, _ := seeds(t, cfg)
	b := newMachine(t, r, "private")
	b.cfg.Mirrors = []string{loopback(t, ready)}
	b.boots(r)
}

// An older machine needs the roots in between: they are kept too.
func TestAMachineWithAnOldRootBootsFromOneWithoutACache(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	old := r.root
	r.replaceOnline(manifest.Discovery{IPNS: []string{r.ipns}})
	r.root = r.files["2.root.json"]
	ready, _ := seeds(t, kept(t, r, swarmMode))
	b := newMachine(t, r, "private")
	b.cfg.Root, b.cfg.Mirrors = old, []string{loopback(t, ready)}
	b.boots(r)
}

// The folder of artifacts may have changed. A file of another length is not served, and a
// damaged leaf is not sent.
func TestASeedServesNoChangedArtifact(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	for name, bend := range map[string]func([]byte) []byte{
		"a bit":    func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"a length": func(b []byte) []byte { return b[:len(b)-1] },
		"no file":  nil,
	} {
		t.Run(name, func(t *testing.T) {
			cfg := kept(t, r, swarmMode)
			file := filepath.Join(cfg.Artifacts, "rootfs")
			if bend == nil {
				ok(t, os.Remove(file))
			} else {
				ok(t, os.WriteFile(file, bend(bytes.Clone(r.signed["rootfs"])), 0o644))
			}
			ready, _ := seeds(t, cfg)
			origin := loopback(t, ready)
			if n := ones(have(t, origin, r.cids["rootfs"])); (n > 0) != (name == "a bit") {
				t.Errorf("it claims %d leaves", n)
			}
			leaves, err := cas.Leaves(t.Context(), r.store, r.cids["rootfs"], int64(len(r.signed["rootfs"])))
			ok(t, err)
			missing := 0
			for _, l := range leaves {
				if data, err := (&gateway.Client{Base: origin}).Block(t.Context(), l.CID); err != nil {
					missing++
				} else {
					ok(t, cas.Check(l.CID, data))
				}
			}
			if want := map[string]int{"a bit": 1}[name]; missing != want && (want > 0 || missing != len(leaves)) {
				t.Errorf("%d of %d leaves are not given", missing, len(leaves))
			}
		})
	}
}

// A leaf of a missing artifact may also be in another one: every claimed leaf is served.
func TestASeedServesALeafFromAnyArtifactThatHasIt(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	kernel := content(1, 300<<10)
	r.release("2", map[string][]byte{"kernel": kernel, "initramfs": content(2, 100<<10), "rootfs": append(bytes.Clone(kernel), content(3, 1<<20)...)})
	cfg := kept(t, r, swarmMode)
	ok(t, os.Remove(filepath.Join(cfg.Artifacts, "kernel")))
	ready, _ := seeds(t, cfg)
	origin := loopback(t, ready)
	leaves, err := cas.Leaves(t.Context(), r.store, r.cids["kernel"], int64(len(kernel)))
	ok(t, err)
	bitmap := have(t, origin, r.cids["kernel"])
	if ones(bitmap) == 0 || ones(bitmap) == len(leaves) {
		t.Fatalf("%d of %d leaves lie in both", ones(bitmap), len(leaves))
	}
	for i, l := range leaves {
		if _, err := cas.Get(t.Context(), &gateway.Client{Base: origin}, l.CID); (err == nil) != bit(bitmap, i) {
			t.Errorf("leaf %d: claimed %t, %v", i, bit(bitmap, i), err)
		}
	}
}

// A damaged block of the cache is read from the folder of artifacts. If that lacks it, the log
// says so once, for any number of requests.
func TestASeedReplacesDamagedBlocksFromTheArtifacts(t *testing.T) {
	t.Parallel()
	r := newRepo(t, "us", manifest.Discovery{})
	cfg := filled(t, r, t.TempDir())
	poison(t, cfg.Cache, r.signed["rootfs"][1<<20:1<<20+64])
	whole := newMachine(t, r, "private")
	whole.cfg.Mirrors = []string{serve(t, r, nil).URL}
	whole.boots(r)
	leaves, err := cas.Leaves(t.Context(), r.store, r.cids["rootfs"], int64(len(r.signed["rootfs"])))
	ok(t, err)
	for folder, missing := range map[string]int{whole.out: 0, "": 1} {
		cfg, lines := cfg, make(logLines, 64)
		cfg.Artifacts, cfg.Log = folder, slog.New(slog.NewTextHandler(lines, nil))
		ready, stop := seeds(t, cfg)
		gw := &gateway.Client{Base: loopback(t, ready)}
		for range 3 {
			bad := 0
			for _, l := range leaves {
				if _, err := cas.Get(t.Context(), gw, l.CID); err != nil {
					bad++
				}
			}
			if bad != missing {
				t.Errorf("artifacts in %q: %d leaves were not given, want %d", folder, bad, missing)
			}
		}
		ok(t, stop())
		close(lines)
		said, last := 0, ""
		for line := range lines {
			said += strings.Count(line, "not served")
			last = line
		}
		if !strings.Contains(last, "seed: ends") || !strings.Contains(last, "MiB") {
			t.Errorf("it does not end with what it gave: %s", last)
		}
		if said != missing {
			t.Errorf("artifacts in %q: the log says so %d times, want %d", folder, said, missing)
		}
	}
}

func TestASeedServesTheUndamagedCopyOfALeaf(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	kernel := content(1, 300<<10)
	r.release("2", map[string][]byte{"kernel": kernel, "initramfs": content(2, 100<<10), "rootfs": append(bytes.Clone(kernel), content(3, 1<<20)...)})
	kernelLeaves, err := cas.Leaves(t.Context(), r.store, r.cids["kernel"], int64(len(kernel)))
	ok(t, err)
	first := kernelLeaves[0]
	for _, bad := range []string{"kernel", "rootfs"} {
		cfg := kept(t, r, swarmMode)
		file := bytes.Clone(r.signed[bad])
		clear(file[:first.Size])
		ok(t, os.WriteFile(filepath.Join(cfg.Artifacts, bad), file, 0o644))
		ready, stop := seeds(t, cfg)
		if _, err := cas.Get(t.Context(), &gateway.Client{Base: loopback(t, ready)}, first.CID); err != nil {
			t.Errorf("a leaf that is damaged in %s: %v", bad, err)
		}
		ok(t, stop())
	}

	cfg := kept(t, r, swarmMode)
	pipe := filepath.Join(cfg.Artifacts, "kernel")
	ok(t, errors.Join(os.Remove(pipe), unix.Mkfifo(pipe, 0o600)))
	ready, stop := seeds(t, cfg)
	if _, err := cas.Get(t.Context(), &gateway.Client{Base: loopback(t, ready)}, first.CID); err != nil {
		t.Errorf("a leaf where the kernel is a pipe: %v", err)
	}
	ok(t, stop())
}

func TestAMachineThatDoesNotServeKeepsNothing(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	quiet := swarmMode
	quiet.Announce = false
	if _, err := os.Stat(kept(t, r, quiet).Cache); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was kept: %v", err)
	}
}

func folderSize(t *testing.T, dir string) (size int64) {
	t.Helper()
	ok(t, filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		ok(t, err)
		size += info.Size()
		return nil
	}))
	return size
}

// A fetch saves the pointer before it has the blocks. A seed keeps serving the previous release
// until the blocks are there.
func TestASeedServesANewReleaseOnceItIsFetched(t *testing.T) {
	t.Parallel()
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
	m.cfg.Mode, m.cfg.Cache, m.cfg.Mirrors = swarmMode, cfg.Cache, []string{serve(t, r, held.bend).URL}
	fetched := make(chan error, 1)
	go func() { fetched <- m.fetch(t.Context()) }()
	for line := range lines {
		if strings.Contains(line, "keeps the previous release") {
			break
		}
	}
	close(held.opened)
	ok(t, <-fetched)
	for line := range lines {
		if strings.Contains(line, "serves a newer pointer") && strings.Contains(line, "release=2") {
			break
		}
	}
	waitUntil(t, func() bool { return ones(have(t, origin, r.cids["rootfs"])) == len(leaves) })
}

// logLines receives log lines while there is room.
type logLines chan string

func (l logLines) Write(b []byte) (int, error) {
	select {
	case l <- string(b):
	default:
	}
	return len(b), nil
}

func TestASeedRefusesAReleaseThatItWouldNotBoot(t *testing.T) {
	r := newRepo(t, "us", manifest.Discovery{})
	honest := filled(t, r, t.TempDir())
	head, err := os.ReadFile(filepath.Join(honest.Cache, "heads", r.ipns+".ipns-record"))
	ok(t, err)
	foreign := newRepo(t, "foreign", manifest.Discovery{})
	for name, tt := range map[string]struct {
		bend func(t *testing.T, c *bootclient.Config)
		code int
	}{
		"an empty cache":                  {func(t *testing.T, c *bootclient.Config) { c.Cache = t.TempDir() }, 4},
		"no cache":                        {func(_ *testing.T, c *bootclient.Config) { c.Cache = "" }, 2},
		"a release of another repository": {func(t *testing.T, c *bootclient.Config) { *c = filled(t, foreign, t.TempDir()); c.Root = r.root }, 3},
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
			cfg.Ready = func(report.Ready) { t.Error("it serves") }
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
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

// A seed writes nothing to the cache, not even a lock.
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
