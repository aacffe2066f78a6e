package machine

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/bootclient/report"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/modes"
)

func TestTheTargetServesOnlyIfTheModeAnnounces(t *testing.T) {
	const (
		disk   = `PHASE_SEED="--root /run/phase/root.json --cache /run/phase/cache --channel stable --arch x86_64 --mode local"` + "\n"
		memory = `PHASE_SEED="--root /run/phase/root.json --cache /run/phase/cache --artifacts /run/phase --channel stable --arch x86_64 --mode local"` + "\n"
	)
	local := func() bootclient.Config {
		m, err := modes.Load("local")
		if err != nil {
			t.Fatal(err)
		}
		return bootclient.Config{Mode: m, Channel: "stable", Arch: "x86_64", Cache: cacheDir}
	}
	var removable bool
	for name, tt := range map[string]struct {
		change      func(*bootclient.Config)
		want, nodes string
	}{
		"a stick":                    {func(*bootclient.Config) { removable = true }, memory, nodesDir},
		"mode local":                 {func(*bootclient.Config) {}, disk, ""},
		"mode private":               {func(c *bootclient.Config) { c.Mode, _ = modes.Load("private") }, "", ""},
		"mode private, no partition": {func(c *bootclient.Config) { c.Mode, _ = modes.Load("private"); c.Cache = "" }, "", ""},
		"a proxy":                    {func(c *bootclient.Config) { c.Mode.Proxy = "http://192.0.2.1" }, "", ""},
		"no cache partition":         {func(c *bootclient.Config) { c.Cache = "" }, memory, nodesDir},
		"no cache, no announcement":  {func(c *bootclient.Config) { c.Cache, c.Mode.Announce = "", false }, "", ""},
		"phase.cache=off":            {func(c *bootclient.Config) { c.Cache, c.Mode.Cache = "", "off" }, memory, nodesDir},
		"another mode local": {
			func(c *bootclient.Config) { c.Mode.Announce, c.Mode.DHCPMirror = true, !c.Mode.DHCPMirror },
			strings.Replace(disk, "--mode local", "--mode /run/phase/modes/local.json", 1), "",
		},
		"phase.cache=ro":         {func(c *bootclient.Config) { c.Mode.Cache = "ro" }, memory, nodesDir},
		"a channel with a space": {func(c *bootclient.Config) { c.Channel = "stable --mode" }, "", ""},
		"a channel with quotes":  {func(c *bootclient.Config) { c.Channel = `stable"` }, "", ""},
		"a bootstrap peer": {
			func(c *bootclient.Config) { c.Bootstrap = []string{"/ip4/192.0.2.1/tcp/4001/p2p/12D3"} },
			strings.TrimSuffix(disk, "\"\n") + ` --bootstrap /ip4/192.0.2.1/tcp/4001/p2p/12D3"` + "\n", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := local()
			removable = false
			tt.change(&c)
			plan := planSeed(c, removable)
			if string(plan.env) != tt.want || plan.nodes != tt.nodes {
				t.Errorf("got %q and nodes from %q, want %q and %q", plan.env, plan.nodes, tt.want, tt.nodes)
			}
			if off := strings.HasPrefix(plan.summary, "the target does not serve: "); off != (tt.want == "") {
				t.Errorf("the report has %q", plan.summary)
			}
		})
	}
}

// A cache partition that is full, or was pulled, does not have the release that the target would serve.
func TestTheTargetServesFromMemoryIfThePartitionDoesNotHaveTheRelease(t *testing.T) {
	local, err := modes.Load("local")
	if err != nil {
		t.Fatal(err)
	}
	private, err := modes.Load("private")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		mode  modes.Mode
		whole bool
		nodes string
	}{
		"the whole release": {local, true, ""},
		"a part of it":      {local, false, nodesDir},
		"mode private":      {private, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := &boot{config: bootclient.Config{Mode: tt.mode, Channel: "stable", Arch: "x86_64", Cache: cacheDir}, payload: &Payload{}}
			b.payload.seed = planSeed(b.config, false)
			b.seedWithoutPartition(tt.whole)
			if got := b.payload.seed; got.nodes != tt.nodes || (got.env != nil) != tt.mode.Announce {
				t.Errorf("nodes from %q, %q", got.nodes, got.env)
			}
		})
	}
}

func TestThePlanToServeIsPartOfThePayload(t *testing.T) {
	env, root := []byte("PHASE_SEED=\"--this\"\n"), []byte(`{"root":"json"}`)
	for name, allowed := range map[string]bool{"allowed": true, "forbidden": false} {
		t.Run(name, func(t *testing.T) {
			p := NewPayload([]byte("KEY"), plenty)
			t.Cleanup(p.Abort)
			if allowed {
				p.seed = seedPlan{env: env, root: root}
			}
			fill(t, p, files)
			if err := p.commit(releaseOf(files), manifest.MachineSettings{}, newReport(io.Discard)); err != nil {
				t.Fatal(err)
			}
			got := handedOver(t, p)
			if bytes.Equal(got["phase/seed.env"], env) != allowed || bytes.Equal(got["phase/root.json"], root) != allowed {
				t.Errorf("handed over: %q, %q", got["phase/seed.env"], got["phase/root.json"])
			}
		})
	}
}

// memorySeed returns a payload of the small release whose target serves from memory, on a machine
// with total and free bytes of memory.
func memorySeed(t *testing.T, total, free int64) *Payload {
	t.Helper()
	p := NewPayload([]byte("KEY"), plenty)
	t.Cleanup(p.Abort)
	p.meminfo = func(name string) int64 { return map[string]int64{"MemTotal": total, "MemAvailable": free}[name] }
	p.seed = seedPlan{env: []byte("ENV"), root: []byte("ROOT"), nodes: t.TempDir()}
	for name, data := range nodes {
		file := filepath.Join(p.seed.nodes, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, p, files)
	return p
}

// nodes has the files that Run kept of the small release.
var nodes = map[string][]byte{
	"blocks/pack-00000001.car": noise(5, 5001), "blocks/pack-00000001.idx": noise(6, 90), "heads/k51.ipns-record": noise(7, 221),
}

// extraSize returns the size of the extra files of the small release.
func extraSize() int64 {
	size := len(files["kernel"]) + len(files["initramfs"])
	for _, data := range nodes {
		size += len(data)
	}
	return int64(size)
}

func TestATargetThatServesFromMemoryGetsTheExtraFiles(t *testing.T) {
	p := memorySeed(t, plenty, plenty)
	if err := p.commit(releaseOf(files), manifest.MachineSettings{}, newReport(io.Discard)); err != nil {
		t.Fatal(err)
	}
	got := handedOver(t, p)
	want := map[string][]byte{"phase/kernel": files["kernel"], "phase/initramfs": files["initramfs"], "phase/seed.env": []byte("ENV"), "phase/root.json": []byte("ROOT")}
	for name, data := range nodes {
		want["phase/cache/"+name] = data
	}
	for name, data := range want {
		if !bytes.Equal(got[name], data) {
			t.Errorf("%s: %d bytes, want %d", name, len(got[name]), len(data))
		}
	}
	if kept := report.Bytes(extraSize()); p.seed.summary != "from memory after the jump, "+kept+" kept" {
		t.Errorf("the report has %q, %s are kept", p.seed.summary, kept)
	}
}

// If the memory is not enough for the boot and the extra files, the payload is byte for byte that of
// a machine that does not serve.
func TestTooLittleMemoryToServeDoesNotStopTheBoot(t *testing.T) {
	alone, rep := memorySeed(t, plenty, plenty), newReport(io.Discard) // one report: it has the time
	alone.seed = alone.seed.off("this machine")
	if err := alone.commit(releaseOf(files), manifest.MachineSettings{}, rep); err != nil {
		t.Fatal(err)
	}
	size := extraSize()
	enough := size + (kexecCopies-1)*(memorySeed(t, plenty, plenty).Size()+size) + seedReserve
	for name, tt := range map[string]struct {
		total, free, minRAM int64
		reason              string // "" if it serves
	}{
		"exactly enough free memory":      {plenty, enough, 0, ""},
		"a byte less":                     {plenty, enough - 1, 0, "free"},
		"1/16 of the memory":              {size * maxSeedFraction, plenty, 0, ""},
		"more than 1/16":                  {size*maxSeedFraction - 1, plenty, 0, "more than 1/16"},
		"a release with less min_ram":     {2 << 30, plenty, 1 << 10, ""},
		"a release that needs all":        {960 << 20, plenty, 1 << 10, "requires its 1024 MiB"},
		"a machine without /proc/meminfo": {0, 0, 0, "free"},
	} {
		t.Run(name, func(t *testing.T) {
			p := memorySeed(t, tt.total, tt.free)
			release := releaseOf(files)
			release.MinRAM = tt.minRAM
			if err := p.commit(release, manifest.MachineSettings{}, rep); err != nil {
				t.Fatal(err)
			}
			if tt.reason == "" {
				if !strings.HasPrefix(p.seed.summary, "from memory") {
					t.Errorf("the report has %q", p.seed.summary)
				}
				return
			}
			if !strings.HasPrefix(p.seed.summary, "the target does not serve: no cache partition to serve from, and ") || !strings.Contains(p.seed.summary, tt.reason) {
				t.Errorf("the report has %q", p.seed.summary)
			}
			if got, want := handedOver(t, p), handedOver(t, alone); len(got) != len(want) || tt.minRAM == 0 && !bytes.Equal(content(t, p.initrd), content(t, alone.initrd)) {
				t.Errorf("the archive has %d files in %d bytes, that of a machine that does not serve %d in %d", len(got), p.Size(), len(want), alone.Size())
			}
		})
	}
}

func TestABootWithoutNodesHandsOverNothingToServe(t *testing.T) {
	p := memorySeed(t, plenty, plenty)
	p.seed.nodes = filepath.Join(p.seed.nodes, "gone")
	if err := p.commit(releaseOf(files), manifest.MachineSettings{}, newReport(io.Discard)); err != nil {
		t.Fatal(err)
	}
	if got := handedOver(t, p); got["phase/seed.env"] != nil || got["phase/kernel"] != nil || !strings.Contains(p.seed.summary, "no files to serve") {
		t.Errorf("handed over; the report has %q", p.seed.summary)
	}
}

func TestHandOverFilesKeepTheirModes(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "phase")
	if err := os.MkdirAll(filepath.Join(from, "job"), 0o755); err != nil {
		t.Fatal(err)
	}
	modes := map[string]os.FileMode{"release.json": 0o644, "machine.key": 0o600, "job/hello.wasm": 0o644, "rootfs.squashfs": 0o644}
	for name, mode := range modes {
		if err := os.WriteFile(filepath.Join(from, name), []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	for attempt := range 2 {
		if err := moveHandOver(from, to); err != nil {
			t.Fatalf("attempt %d: %v", attempt, err)
		}
	}
	delete(modes, "rootfs.squashfs")
	for name, mode := range modes {
		info, err := os.Stat(filepath.Join(to, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if exists(filepath.Join(from, "machine.key")) || !exists(filepath.Join(from, "rootfs.squashfs")) {
		t.Error("the key was not moved, or the root filesystem was")
	}
}
