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

// hostExtra returns how much memory the engine may use in addition to the linear memory, in bytes: for
// its code, about 30 bytes for each byte of the module, and for the stack.
func hostExtra(module int) uint64 { return stackFactor * (64<<20 + 64*uint64(module)) }

// A meter limits a job's linear memory and records its high-water mark. It replaces wazero's
// WithMemoryLimitPages, which does not report a refusal: a receipt must name memory as the reason.
type meter struct {
	limit    uint64
	peak     atomic.Uint64
	refused  atomic.Bool
	onPeak   func(peak uint64)   // called for each new peak, in bytes; nil for none
	makeRoom func(linear uint64) // makes room for that many bytes of linear memory; nil for none
}

// reserve makes room for size bytes of linear memory.
func (m *meter) reserve(size int64) {
	if m.makeRoom != nil {
		m.makeRoom(uint64(size))
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

// linear is a reserved range of addresses. A job may use the first part of it, which grows without
// copying.
type linear struct {
	meter *meter
	space []byte
	used  uint64
}

// Reallocate implements experimental.LinearMemory. nil refuses the growth.
func (l *linear) Reallocate(size uint64) []byte {
	if size > uint64(len(l.space)) || !l.open(size) {
		l.meter.refused.Store(true)
		return nil
	}
	if size > l.meter.peak.Load() {
		l.meter.peak.Store(size)
		l.meter.reserve(int64(size))
		if l.meter.onPeak != nil {
			l.meter.onPeak(size)
		}
	}
	return l.space[:size:size]
}

// open makes the first size bytes usable. The kernel refuses it above RLIMIT_DATA.
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

func (l *linear) Free() {
	if l.space != nil {
		_ = unix.Munmap(l.space) // cannot fail for our own mapping
		l.space = nil
	}
}

// errHostMemory is the cause with which watchHost ends a context.
var errHostMemory = errors.New("the job's stack or tables need too much memory")

// watchHost samples the memory of this process and ends ctx when it has grown by more than extra bytes.
// It limits the guest's stack, which is not linear memory and which the engine does not limit in bytes.
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

// hostMemory returns how much memory the Go runtime has from the kernel, in bytes.
func hostMemory() uint64 {
	sample := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(sample)
	return sample[0].Value.Uint64() - sample[1].Value.Uint64()
}
