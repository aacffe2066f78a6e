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
	// engineData is what the process that runs a job may use beside the job's linear
	// memory, in bytes, less the module: for its lowered code, the guest's stack, the Go
	// runtime. With the text of the program (9 MiB), the tables of Go's runtime (12 MiB)
	// and the parent process (13 MiB and the module) the sum is the job's memory limit +
	// 64 MiB.
	engineData = 30 << 20

	// engineSlack is the part of it that the garbage collector leaves alone.
	engineSlack = 4 << 20

	engineThreads = 2
	engineFiles   = 16
)

// confine bounds this process for the rest of its life: memory, time, no core dump, no
// file that grows, few descriptors. It cannot be undone.
func confine(lim Limits, module int, mem *meter) error {
	runtime.GOMAXPROCS(min(engineThreads, runtime.NumCPU()))
	idle, err := untouched()
	if err != nil {
		return err
	}
	most := max(0, lim.Memory+engineData-int64(module))
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
		{unix.RLIMIT_DATA, (idle + threadStacks + uint64(most)) * raceFactor},
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

// untouched is how much of RLIMIT_DATA this process has mapped and not used, in bytes:
// Go's runtime has tables of which it touches a page or two.
func untouched() (uint64, error) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	var size, resident, shared, code, library, data uint64 // pages
	if _, err := fmt.Sscan(string(text), &size, &resident, &shared, &code, &library, &data); err != nil {
		return 0, fmt.Errorf("/proc/self/statm: %q", text)
	}
	return (data - min(data, resident-shared)) * uint64(os.Getpagesize()), nil
}
