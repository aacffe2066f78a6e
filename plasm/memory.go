package plasm

import (
	"context"
	"errors"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"github.com/tetratelabs/wazero/experimental"
	"golang.org/x/sys/unix"
)

// hostExtra is what the engine may use beside the linear memory, in bytes: the
// lowered code, about 30 bytes for each of the module, and the stack.
func hostExtra(module int) uint64 { return stackFactor * (64<<20 + 64*uint64(module)) }

// A meter keeps a job's linear memory below a limit and knows its high-water mark.
// It takes the place of wazero's WithMemoryLimitPages because that one refuses in
// silence, and a receipt must say that memory was the reason.
type meter struct {
	limit   uint64
	peak    atomic.Uint64
	refused atomic.Bool
	grown   func(peak uint64)   // told of each new peak, in bytes; nil for nobody
	room    func(linear uint64) // makes room for so many bytes of linear memory; nil where there is no need
}

// reserve makes room for linear memory that will be asked for, in bytes.
func (m *meter) reserve(size int64) {
	if m.room != nil {
		m.room(uint64(size))
	}
}

// Allocate implements experimental.MemoryAllocator. It reserves addresses, not memory.
func (m *meter) Allocate(_, max uint64) experimental.LinearMemory {
	size := min(max, m.limit)
	if size == 0 {
		return &linear{meter: m}
	}
	space, err := unix.Mmap(-1, 0, int(size), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		space = nil // Reallocate refuses
	}
	return &linear{meter: m, space: space}
}

// linear is a range of addresses, whose first part a job may use. Growing neither
// copies nor leaves garbage.
type linear struct {
	meter *meter
	space []byte
	used  uint64
}

// Reallocate implements experimental.LinearMemory: nil refuses.
func (l *linear) Reallocate(size uint64) []byte {
	if size > uint64(len(l.space)) || !l.open(size) {
		l.meter.refused.Store(true)
		return nil
	}
	if size > l.meter.peak.Load() {
		l.meter.peak.Store(size)
		l.meter.reserve(int64(size))
		if l.meter.grown != nil {
			l.meter.grown(size)
		}
	}
	return l.space[:size:size]
}

// open makes the first size bytes usable. The kernel refuses it beyond RLIMIT_DATA.
func (l *linear) open(size uint64) bool {
	if size <= l.used {
		return true
	}
	if unix.Mprotect(l.space[l.used:size], unix.PROT_READ|unix.PROT_WRITE) != nil {
		return false
	}
	l.used = size
	return true
}

// Free implements experimental.LinearMemory.
func (l *linear) Free() {
	if l.space != nil {
		_ = unix.Munmap(l.space) // an own mapping; what is left goes with the process
		l.space = nil
	}
}

// errHostMemory is the cause of a context that watchHost ended.
var errHostMemory = errors.New("the job's stack or tables outgrew the machine")

// watchHost samples the process and ends ctx when it grew by more than extra bytes:
// a guest's stack is not linear memory, and the engine has no limit for its bytes.
func watchHost(ctx context.Context, extra uint64, end context.CancelCauseFunc) {
	limit := hostMemory() + extra
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if hostMemory() > limit {
				end(errHostMemory)
				return
			}
		}
	}
}

// hostMemory is what the Go runtime holds of the machine, in bytes.
func hostMemory() uint64 {
	sample := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(sample)
	return sample[0].Value.Uint64() - sample[1].Value.Uint64()
}
