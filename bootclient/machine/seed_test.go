package machine

import (
	"bytes"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/bootclient"
	"github.com/phaseboot/phaseboot/imagebuild/modes"
)

func TestTheTargetServesOnlyWhereTheModeAnnounces(t *testing.T) {
	const want = `PHASE_SEED="--root /run/phase/root.json --cache /run/phase/cache --channel stable --arch x86_64 --mode local"` + "\n"
	local := func() bootclient.Config {
		m, err := modes.Load("local")
		if err != nil {
			t.Fatal(err)
		}
		return bootclient.Config{Mode: m, Channel: "stable", Arch: "x86_64", Cache: cacheDir}
	}
	for name, tt := range map[string]struct {
		bend func(*bootclient.Config)
		want string
	}{
		"mode local":            {func(*bootclient.Config) {}, want},
		"mode private":          {func(c *bootclient.Config) { c.Mode, _ = modes.Load("private") }, ""},
		"a proxy":               {func(c *bootclient.Config) { c.Mode.Proxy = "http://192.0.2.1" }, ""},
		"no cache partition":    {func(c *bootclient.Config) { c.Cache = "" }, ""},
		"phase.cache=ro":        {func(c *bootclient.Config) { c.Mode.Cache = "ro" }, ""},
		"a channel of two":      {func(c *bootclient.Config) { c.Channel = "stable --mode" }, ""},
		"a channel with quotes": {func(c *bootclient.Config) { c.Channel = `stable"` }, ""},
		"a hint into the DHT": {
			func(c *bootclient.Config) { c.Bootstrap = []string{"/ip4/192.0.2.1/tcp/4001/p2p/12D3"} },
			strings.TrimSuffix(want, "\"\n") + ` --bootstrap /ip4/192.0.2.1/tcp/4001/p2p/12D3"` + "\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := local()
			tt.bend(&c)
			if got := string(seedEnvironment(c)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
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
				p.AllowSeed(env, root)
			}
			fill(t, p, files)
			if err := p.commit(releaseOf(files), []byte("{}")); err != nil {
				t.Fatal(err)
			}
			initrd := content(t, p.initrd)
			for _, part := range [][]byte{env, root, []byte("phase/seed.env"), []byte("phase/root.json")} {
				if bytes.Contains(initrd, part) != allowed {
					t.Errorf("%q: in the payload %t", part, !allowed)
				}
			}
		})
	}
}
