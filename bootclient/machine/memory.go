package machine

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
)

// meminfo returns a line of /proc/meminfo in bytes, 0 when it is not there.
func meminfo(name string) int64 {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	return parseMeminfo(string(data), name)
}

func parseMeminfo(data, name string) int64 {
	for line := range strings.Lines(data) {
		key, value, _ := strings.Cut(line, ":")
		var kib int64
		if n, _ := fmt.Sscanf(value, "%d kB", &kib); key == name && n == 1 {
			return kib << 10
		}
	}
	return 0
}

// limitMemory keeps the Go heap of the boot process small beside the payload,
// which is not part of it: a quarter of the machine, 48 MiB to 512 MiB.
func limitMemory(total int64) {
	debug.SetMemoryLimit(min(max(total/4, 48<<20), 512<<20))
	debug.SetGCPercent(50)
}

// enoughMemory compares a release's wish, in MiB of the whole machine, with what
// the kernel counts in bytes: up to an eighth less, because it keeps some to itself.
func enoughMemory(minRAM, total int64) error {
	if minRAM > (total+total/8)>>20 {
		return fmt.Errorf("memory: the release wants a machine with %d MiB, this one has about %d MiB", minRAM, total>>20)
	}
	return nil
}
