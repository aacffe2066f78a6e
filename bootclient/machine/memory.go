package machine

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/phaseboot/phaseboot/bootclient/report"
)

// meminfo returns a value of /proc/meminfo in bytes, 0 if it is missing.
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
		if key != name {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
		if err == nil {
			return kib << 10
		}
	}
	return 0
}

// limitMemory limits the Go heap of the boot process to a quarter of the machine's memory, at
// least 48 MiB and at most 512 MiB. The payload is not part of the heap.
func limitMemory(total int64) {
	debug.SetMemoryLimit(min(max(total/4, 48<<20), 512<<20))
	debug.SetGCPercent(50)
}

// errMemory is the error for a machine with too little memory.
var errMemory = errors.New("too little memory")

// minBootMemory is how much memory must be free to start a boot: workMemory and kexecCopies times
// the smallest kernel and initramfs. With less, the kernel's OOM killer ends the boot.
const minBootMemory = workMemory + kexecCopies*16<<20

// recommendedMemory is the size of machine to recommend before the release is known, in MiB.
const recommendedMemory = 1024

// checkBootMemory refuses a machine that has too little memory for any release.
func checkBootMemory(total, free int64) error {
	if free < minBootMemory {
		return fmt.Errorf("%w: %s are missing: %s are free of %s, and a boot needs at least %s; give the machine %d MiB",
			errMemory, report.Bytes(minBootMemory-free), report.Bytes(free), report.Bytes(total), report.Bytes(minBootMemory), recommendedMemory)
	}
	return nil
}

// checkMinRAM refuses a machine that is smaller than a release's min_ram, in MiB. total is what
// the kernel reports in bytes: up to an eighth less than the machine has, because the kernel
// reserves some.
func checkMinRAM(minRAM, total int64) error {
	if minRAM > (total+total/8)>>20 {
		return fmt.Errorf("%w: the release requires a machine with %d MiB, this one has about %d MiB", errMemory, minRAM, total>>20)
	}
	return nil
}

// checkPayloadMemory refuses a release of size bytes for which too little memory is free. The error says how
// much more memory the machine needs: it does not know its size, of which the kernel and the firmware have a part.
func checkPayloadMemory(size, free int64) error {
	need := kexecCopies*size + workMemory
	if need <= free {
		return nil
	}
	const step = 16 << 20
	return fmt.Errorf("%w: %s are missing: the release has %s and needs %s of free memory to start (%d × its size and %s); %s are free; give the machine %d MiB more",
		errMemory, report.Bytes(need-free), report.Bytes(size), report.Bytes(need), kexecCopies, report.Bytes(workMemory), report.Bytes(free), (need-free+step-1)/step*step>>20)
}
