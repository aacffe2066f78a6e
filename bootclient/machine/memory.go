package machine

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/dustin/go-humanize"
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

// errMemory says that the machine has too little memory.
var errMemory = errors.New("too little memory")

// leastMemory is what must be free for a boot to begin: room to work, and three times the
// smallest kernel and initramfs. With less the kernel's OOM killer ends it somewhere.
const leastMemory = workMemory + kexecCopies*16<<20

// advisedMemory is what a machine should have in MiB where nothing else is known.
const advisedMemory = 1024

// canBegin refuses a machine that is too small for any release.
func canBegin(total, free int64) error {
	if free < leastMemory {
		return fmt.Errorf("%w: %s are free of %s, and a boot needs %s at least; give the machine %d MiB",
			errMemory, words(free), words(total), words(leastMemory), advisedMemory)
	}
	return nil
}

// enoughMemory compares a release's wish, in MiB of the whole machine, with what
// the kernel counts in bytes: up to an eighth less, because it keeps some to itself.
func enoughMemory(minRAM, total int64) error {
	if minRAM > (total+total/8)>>20 {
		return fmt.Errorf("%w: the release wants a machine with %d MiB, this one has about %d MiB", errMemory, minRAM, total>>20)
	}
	return nil
}

// enoughFor refuses a release of size bytes for which the memory that is free does not
// suffice, and says how large a machine it takes.
func enoughFor(size, free, total int64) error {
	need := kexecCopies*size + workMemory
	if need <= free {
		return nil
	}
	const step = 64 << 20
	machine := (total - free + need + step - 1) / step * step
	return fmt.Errorf("%w: the release has %s and needs %s of free memory to start (%d × its size and %s); %s are free; give the machine %d MiB",
		errMemory, words(size), words(need), kexecCopies, words(workMemory), words(free), max(machine, total+step)>>20)
}

// words are a size for people.
func words(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
