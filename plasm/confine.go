package plasm

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// engineData is how much the process that runs a job may map in addition to the job's linear
	// memory, in bytes, before the largest growth is subtracted: for the engine's code, the guest's
	// stack, the module and the rest of Go's heap. Together with the program's text (9 MiB,
	// shared with the parent process), the used tables of Go's runtime (4 MiB) and the parent
	// process (18 MiB and the module), the sum is at most the job's memory limit + 64 MiB.
	engineData = 34 << 20

	// engineGrowth and engineGrowthMore are the largest single growth of the heap: bytes for each byte
	// of the module, and bytes in addition. A table of the engine's code is copied to a larger one,
	// and so is the guest's stack. RLIMIT_DATA allows one growth of any size above the limit, because
	// for reserved addresses the kernel compares only what is mapped already (may_expand_vm in
	// mm/vma.c). So the filter of system calls refuses a larger one.
	engineGrowth     = 3
	engineGrowthMore = 8 << 20

	// engineSlack is the part of engineData above the garbage collector's limit, in bytes.
	engineSlack = 4 << 20

	// preparing and running are the garbage collector's percentages. While the interpreter prepares a
	// module, nearly all of the heap stays in use, so that more collections would free little. The
	// compiler frees much of it.
	preparing = 100
	running   = 30

	engineThreads = 2
	engineFiles   = 16
)

// growth returns the largest single growth of the heap that the process of a request needs, in bytes. The
// code of the compiler is one piece when it is stored.
func (r request) growth() int64 {
	most := engineGrowth * r.Length
	if r.Keep {
		most = max(most, r.room())
	}
	return most + engineGrowthMore
}

// confine limits this process permanently: memory, processor time, no core dump, few file descriptors, and
// no file that grows above the space for compiled code.
func confine(q request, mem *meter) error {
	spec, lim := q.Spec, q.Spec.Limits
	if q.Keep { // its file of the code is memory too
		lim.Memory = max(0, lim.Memory-q.room())
	}
	runtime.GOMAXPROCS(min(engineThreads, runtime.NumCPU()))
	tables, err := nonHeapData()
	if err != nil {
		return err
	}
	most := max(0, lim.Memory+engineData-q.growth())
	// The kernel never stops counting memory that the Go heap has used once, and the job's memory
	// is part of the same limit. So the heap stays small.
	mem.makeRoom = func(linear uint64) { debug.SetMemoryLimit(max(0, most-int64(linear)-engineSlack)) }
	mem.makeRoom(0)
	debug.SetGCPercent(running)
	if spec.Engine == EngineInterpreter {
		debug.SetGCPercent(preparing)
	}
	// The kernel's OOM killer kills this process before its parent. If the file is read-only, it
	// kills the largest process, which is this one too.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	for _, l := range []struct {
		resource int
		limit    uint64
	}{
		{unix.RLIMIT_DATA, (tables + threadStacks + uint64(most+scratchCost(spec.Grants.Scratch))) * raceFactor},
		{unix.RLIMIT_CPU, cpuSeconds(lim)},
		{unix.RLIMIT_CORE, 0},
		{unix.RLIMIT_FSIZE, uint64(q.room())},
		{unix.RLIMIT_NOFILE, engineFiles + uint64(len(spec.Grants.Artifacts))},
	} {
		if err := lower(l.resource, l.limit); err != nil {
			return fmt.Errorf("resource %d: %w", l.resource, err)
		}
	}
	return nil
}

// scratchCost returns how much a scratch folder may map, in bytes: its space, and the tables of its files.
func scratchCost(size int64) int64 { return size + min(size/8, 8<<20) + size/64 }

// cpuSeconds returns the limit at which the kernel kills this process. The parent process kills it
// earlier, and more precisely.
func cpuSeconds(lim Limits) uint64 {
	most := engineThreads * uint64((lim.Timeout+killGrace+time.Second)/time.Second+1)
	if lim.CPU > 0 {
		most = min(most, uint64(lim.CPU/time.Second)+2)
	}
	return most
}

// lower lowers a limit of this process permanently. A lower limit, which an operator has set, stays.
func lower(resource int, limit uint64) error {
	var now unix.Rlimit
	if err := unix.Getrlimit(resource, &now); err != nil {
		return err
	}
	limit = min(limit, now.Max)
	return unix.Setrlimit(resource, &unix.Rlimit{Cur: limit, Max: limit})
}

// lessData lowers the limit of memory by size bytes.
func lessData(size uint64) error {
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_DATA, &now); err != nil {
		return err
	}
	return lower(unix.RLIMIT_DATA, now.Max-min(size, now.Max))
}

// codeSize returns how much memory of a process has code that is not from a file, in bytes. maps is its
// /proc/PID/maps.
func codeSize(maps io.ReaderAt) (uint64, error) {
	size := uint64(0)
	lines := bufio.NewScanner(io.NewSectionReader(maps, 0, 1<<30))
	for lines.Scan() {
		var from, to uint64
		var rights, offset, device string
		var inode uint64
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s %s %s %d", &from, &to, &rights, &offset, &device, &inode); err != nil {
			return 0, fmt.Errorf("memory map: %q: %w", lines.Text(), err)
		}
		if strings.Contains(rights, "x") && inode == 0 {
			size += to - from
		}
	}
	return size, lines.Err()
}

// nonHeapData returns how much of RLIMIT_DATA this process has mapped outside of its heap, in bytes:
// tables of Go's runtime, of which it uses few pages.
func nonHeapData() (uint64, error) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	var size, resident, shared, code, library, data uint64 // pages
	if _, err := fmt.Sscan(string(text), &size, &resident, &shared, &code, &library, &data); err != nil {
		return 0, fmt.Errorf("/proc/self/statm: %q", text)
	}
	var heap runtime.MemStats
	runtime.ReadMemStats(&heap)
	data *= uint64(os.Getpagesize())
	return data - min(data, heap.HeapSys), nil
}
