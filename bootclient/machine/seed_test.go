package machine

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dustin/go-humanize"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/modes"
)

func TestTheTargetServesOnlyWhereTheModeAnnounces(t *testing.T) {
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
	var stick bool
	for name, tt := range map[string]struct {
		bend        func(*bootclient.Config)
		want, nodes string
	}{
		"a stick":                      {func(*bootclient.Config) { stick = true }, memory, nodesDir},
		"mode local":                   {func(*bootclient.Config) {}, disk, ""},
		"mode private":                 {func(c *bootclient.Config) { c.Mode, _ = modes.Load("private") }, "", ""},
		"mode private, no partition":   {func(c *bootclient.Config) { c.Mode, _ = modes.Load("private"); c.Cache = "" }, "", ""},
		"a proxy":                      {func(c *bootclient.Config) { c.Mode.Proxy = "http://192.0.2.1" }, "", ""},
		"no cache partition":           {func(c *bootclient.Config) { c.Cache = "" }, memory, nodesDir},
		"no cache partition, no voice": {func(c *bootclient.Config) { c.Cache, c.Mode.Announce = "", false }, "", ""},
		"phase.cache=off":              {func(c *bootclient.Config) { c.Cache, c.Mode.Cache = "", "off" }, memory, nodesDir},
		"phase.cache=ro":               {func(c *bootclient.Config) { c.Mode.Cache = "ro" }, memory, nodesDir},
		"a channel of two":             {func(c *bootclient.Config) { c.Channel = "stable --mode" }, "", ""},
		"a channel with quotes":        {func(c *bootclient.Config) { c.Channel = `stable"` }, "", ""},
		"a hint into the DHT": {
			func(c *bootclient.Config) { c.Bootstrap = []string{"/ip4/192.0.2.1/tcp/4001/p2p/12D3"} },
			strings.TrimSuffix(disk, "\"\n") + ` --bootstrap /ip4/192.0.2.1/tcp/4001/p2p/12D3"` + "\n", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := local()
			stick = false
			tt.bend(&c)
			plan := planSeed(c, stick)
			if string(plan.env) != tt.want || plan.nodes != tt.nodes {
				t.Errorf("got %q and nodes from %q, want %q and %q", plan.env, plan.nodes, tt.want, tt.nodes)
			}
			if silent := strings.Contains(plan.words, "serves nobody"); silent != (tt.want == "") {
				t.Errorf("the console says %q", plan.words)
			}
		})
	}
}

func TestThePermissionToServeTravelsWithThePayload(t *testing.T) {
	env, root := []byte("PHASE_SEED=\"--this\"\n"), []byte(`{"root":"json"}`)
	for name, allowed := range map[string]bool{"allowed": true, "forbidden": false} {
		t.Run(name, func(t *testing.T) {
			p := NewPayload([]byte("KEY"), plenty)
			t.Cleanup(p.Abort)
			if allowed {
				p.seed = seedPlan{env: env, root: root}
			}
			fill(t, p, files)
			if err := p.commit(releaseOf(files), []byte("{}"), newStory(io.Discard)); err != nil {
				t.Fatal(err)
			}
			got := handedOver(t, p)
			if bytes.Equal(got["phase/seed.env"], env) != allowed || bytes.Equal(got["phase/root.json"], root) != allowed {
				t.Errorf("handed over: %q, %q", got["phase/seed.env"], got["phase/root.json"])
			}
		})
	}
}

// memorySeed is a payload of the small release that the target is to serve from memory,
// on a machine with so much memory in all and so much free.
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

// nodes are what Run kept of the small release.
var nodes = map[string][]byte{
	"blocks/pack-00000001.car": noise(5, 5001), "blocks/pack-00000001.idx": noise(6, 90), "heads/k51.ipns-record": noise(7, 221),
}

// stockSize is what the small release takes to be served from memory.
func stockSize() int64 {
	size := len(files["kernel"]) + len(files["initramfs"])
	for _, data := range nodes {
		size += len(data)
	}
	return int64(size)
}

func TestATargetThatServesFromMemoryGetsWhatItDoesNotHave(t *testing.T) {
	p := memorySeed(t, plenty, plenty)
	if err := p.commit(releaseOf(files), []byte("{}"), newStory(io.Discard)); err != nil {
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
	if kept := humanize.IBytes(uint64(stockSize())); p.seed.words != "from memory after the jump, "+kept+" kept" {
		t.Errorf("the console says %q, %s are kept", p.seed.words, kept)
	}
}

// What is handed over never takes what the boot itself needs: where there is not room for
// both, the payload is that of a machine that serves nobody, byte for byte.
func TestTooLittleMemoryForOthersIsNoReasonNotToBoot(t *testing.T) {
	alone := memorySeed(t, plenty, plenty)
	alone.seed = seedPlan{}
	if err := alone.commit(releaseOf(files), []byte("{}"), newStory(io.Discard)); err != nil {
		t.Fatal(err)
	}
	size := stockSize()
	enough := size + (kexecCopies-1)*(memorySeed(t, plenty, plenty).Size()+size) + seedSpare
	for name, tt := range map[string]struct {
		total, free, minRAM int64
		words               string // "" where it serves
	}{
		"as much free as it takes":              {plenty, enough, 0, ""},
		"a byte less":                           {plenty, enough - 1, 0, "free"},
		"a small part of the memory":            {size * seedShare, plenty, 0, ""},
		"a larger one":                          {size*seedShare - 1, plenty, 0, "more than 1/16"},
		"a release that leaves room":            {2 << 30, plenty, 1 << 10, ""},
		"a release that wants all":              {960 << 20, plenty, 1 << 10, "wants its 1024 MiB"},
		"a machine that says nothing of memory": {0, 0, 0, "free"},
	} {
		t.Run(name, func(t *testing.T) {
			p := memorySeed(t, tt.total, tt.free)
			release := releaseOf(files)
			release.MinRAM = tt.minRAM
			if err := p.commit(release, []byte("{}"), newStory(io.Discard)); err != nil {
				t.Fatal(err)
			}
			if tt.words == "" {
				if !strings.HasPrefix(p.seed.words, "from memory") {
					t.Errorf("the console says %q", p.seed.words)
				}
				return
			}
			if !strings.HasPrefix(p.seed.words, "serves nobody after the jump: no cache partition to serve from, and ") || !strings.Contains(p.seed.words, tt.words) {
				t.Errorf("the console says %q", p.seed.words)
			}
			if got, want := handedOver(t, p), handedOver(t, alone); len(got) != len(want) || tt.minRAM == 0 && !bytes.Equal(content(t, p.initrd), content(t, alone.initrd)) {
				t.Errorf("the archive has %d files in %d bytes, without a word of serving %d in %d", len(got), p.Size(), len(want), alone.Size())
			}
		})
	}
}

func TestABootThatKeptNothingHandsNothingOver(t *testing.T) {
	p := memorySeed(t, plenty, plenty)
	p.seed.nodes = filepath.Join(p.seed.nodes, "gone")
	if err := p.commit(releaseOf(files), []byte("{}"), newStory(io.Discard)); err != nil {
		t.Fatal(err)
	}
	if got := handedOver(t, p); got["phase/seed.env"] != nil || got["phase/kernel"] != nil || !strings.Contains(p.seed.words, "nothing was kept") {
		t.Errorf("handed over; the console says %q", p.seed.words)
	}
}
