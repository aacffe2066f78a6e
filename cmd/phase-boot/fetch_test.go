package main

import (
	"context"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/bootclient/timing"
)

// An onion service answers late, so a search through Tor takes longer, unless the command line limits it.
func TestASearchThroughTorTakesLonger(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := writeRoot(context.Background(), "."); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		mode string
		set  bool
		want time.Duration
	}{
		"tor":                {"tor", false, timing.TorTimeout},
		"tor, and --timeout": {"tor", true, timing.DefaultTimeout},
		"another mode":       {"internet", false, timing.DefaultTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			f := fetchFlags{releaseChoice: releaseChoice{root: "root.json", channel: "stable", arch: "x86_64", mode: tt.mode}, timeout: timing.DefaultTimeout, timeoutSet: tt.set}
			if cfg, err := f.config(); err != nil || cfg.Timeout != tt.want {
				t.Errorf("%v, %v; want %v", cfg.Timeout, err, tt.want)
			}
		})
	}
}
