package machine

import (
	"cmp"
	"errors"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/manifest"
)

const mib = 1 << 20

func TestMeminfoIsInBytes(t *testing.T) {
	data := "MemTotal:        1004 kB\nMemAvailable:     500 kB\n"
	if got := parseMeminfo(data, "MemAvailable"); got != 500<<10 {
		t.Errorf("got %d", got)
	}
	if got := parseMeminfo(data, "SwapTotal"); got != 0 {
		t.Errorf("got %d", got)
	}
	if meminfo("MemTotal") <= 0 {
		t.Error("no MemTotal on this machine")
	}
}

func TestAReleaseWithALargerMinRAMIsRefused(t *testing.T) {
	const total = 470 << 20 // MemTotal of a machine with 512 MiB
	for minRAM, ok := range map[int64]bool{0: true, 256: true, 512: true, 600: false, 1 << 50: false} {
		if err := checkMinRAM(minRAM, total); (err == nil) != ok {
			t.Errorf("%d MiB: %v", minRAM, err)
		}
	}
}

// A machine with too little memory is refused with an advice, before the kernel's OOM killer runs.
func TestTooLittleMemoryIsRefusedWithAnAdvice(t *testing.T) {
	release := func(kernel, rootfs, minRAM int64) manifest.Release {
		return manifest.Release{MinRAM: minRAM, Artifacts: []manifest.Artifact{
			{Role: "kernel", Length: kernel * mib}, {Role: "rootfs", Length: rootfs * mib}, {Role: "dtb/board", Length: 1 << 40},
		}}
	}
	for name, tt := range map[string]struct {
		total, free int64 // MiB
		release     manifest.Release
		want        string
	}{
		"192 MiB, before anything is fetched": {148, 60, release(14, 43, 0), "36 MiB are missing: 60 MiB are free of 148 MiB, and a boot needs at least 96 MiB; give the machine 1024 MiB"},
		"192 MiB, a release of 57 MiB":        {148, 97, release(14, 43, 0), "122 MiB are missing: the release has 57 MiB and needs 219 MiB of free memory to start (3 × its size and 48 MiB); 97 MiB are free; give the machine 128 MiB more"},
		"320 MiB, a release of 57 MiB":        {274, 217, release(14, 43, 0), "2.0 MiB are missing: the release has 57 MiB and needs 219 MiB of free memory to start (3 × its size and 48 MiB); 217 MiB are free; give the machine 16 MiB more"},
		"as much as it needs":                 {274, 219, release(14, 43, 0), ""},
		"a larger min_ram":                    {470, 400, release(14, 43, 600), "requires a machine with 600 MiB, this one has about 470 MiB"},
		"a huge release":                      {2000, 1900, release(14, 1<<20, 0), "needs 3.0 TiB of free memory"},
	} {
		t.Run(name, func(t *testing.T) {
			p := NewPayload(nil, tt.free*mib)
			p.meminfo = func(string) int64 { return tt.total * mib }
			err := cmp.Or(checkBootMemory(tt.total*mib, tt.free*mib), p.Plan(tt.release))
			if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || !errors.Is(err, errMemory)) {
				t.Errorf("got %v; want %q", err, tt.want)
			}
		})
	}
}
