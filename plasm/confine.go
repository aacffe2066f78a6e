package plasm

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// engineData is what the process that runs a job may map beside the job's linear memory,
	// in bytes, less engineGrowth: for its lowered code, the guest's stack and the rest of Go's
	// heap, the module in it. With the text of the program (9 MiB, shared with the parent
	// process), the touched tables of Go's runtime (4 MiB) and the parent process (18 MiB and
	// the module) the sum stays within the job's memory limit + 64 MiB.
	engineData = 34 << 20

	// engineGrowth is the largest growth of the heap in bytes for each byte of the module: a
	// table of lowered code that is copied to a bigger one. RLIMIT_DATA lets one growth pass,
	// whatever its size, before it refuses the next: where addresses were reserved before,
	// the kernel compares what is mapped already (may_expand_vm in mm/mmap.c).
	engineGrowth = 3

	// engineSlack is the part of it that the garbage collector leaves alone.
	engineSlack = 4 << 20

	engineThreads = 2
	engineFiles   = 16
)

// confine bounds this process for the rest of its life: memory, time, no core dump, no
// file that grows, few descriptors. It cannot be undone.
func confine(lim Limits, module int, mem *meter) error {
	runtime.GOMAXPROCS(min(engineThreads, runtime.NumCPU()))
	tables, err := besideHeap()
	if err != nil {
		return err
	}
	most := max(0, lim.Memory+engineData-engineGrowth*int64(module))
	// What the Go heap has had the kernel counts for good, so it stays small: the job's
	// memory comes out of the same limit.
	mem.room = func(linear uint64) { debug.SetMemoryLimit(max(0, most-int64(linear)-engineSlack)) }
	mem.room(0)
	debug.SetGCPercent(30)
	// The kernel's OOM killer takes this process before its parent. Where that file is
	// read-only it chooses by size, which is the same one.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	for _, l := range []struct {
		resource int
		limit    uint64
	}{
		{unix.RLIMIT_DATA, (tables + threadStacks + uint64(most)) * raceFactor},
		{unix.RLIMIT_CPU, engineThreads * uint64((lim.Timeout+killGrace+time.Second)/time.Second+1)},
		{unix.RLIMIT_CORE, 0},
		{unix.RLIMIT_FSIZE, 0},
		{unix.RLIMIT_NOFILE, engineFiles},
	} {
		if err := lower(l.resource, l.limit); err != nil {
			return fmt.Errorf("resource %d: %w", l.resource, err)
		}
	}
	return nil
}

// lower sets a limit of this process for good. A lower one, which an operator set, stays:
// nobody without privileges may raise it.
func lower(resource int, limit uint64) error {
	var now unix.Rlimit
	if err := unix.Getrlimit(resource, &now); err != nil {
		return err
	}
	limit = min(limit, now.Max)
	return unix.Setrlimit(resource, &unix.Rlimit{Cur: limit, Max: limit})
}

// besideHeap is how much of RLIMIT_DATA this process has mapped for other than its heap, in
// bytes: tables of Go's runtime, of which it touches a page or two.
func besideHeap() (uint64, error) {
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
