package plasm

import (
	"context"
	"errors"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"github.com/tetratelabs/wazero/experimental"
)

// hostExtra is what the engine may use beside the linear memory, in bytes: the
// lowered code, about 30 bytes for each of the module, and the stack.
func hostExtra(module int) uint64 { return 64<<20 + 64*uint64(module) }

// A meter keeps a job's linear memory below a limit and knows its high-water mark.
// It takes the place of wazero's WithMemoryLimitPages because that one refuses in
// silence, and a receipt must say that memory was the reason.
type meter struct {
	limit   uint64
	peak    atomic.Uint64
	refused atomic.Bool
}

// Allocate implements experimental.MemoryAllocator.
func (m *meter) Allocate(_, max uint64) experimental.LinearMemory {
	return &linear{meter: m, buf: make([]byte, 0, min(max, m.limit))}
}

// linear reserves the limit at once: the pages cost nothing until they are touched,
// and growing neither copies nor leaves garbage.
type linear struct {
	meter *meter
	buf   []byte
}

// Reallocate implements experimental.LinearMemory: nil refuses.
func (l *linear) Reallocate(size uint64) []byte {
	if size > uint64(cap(l.buf)) {
		l.meter.refused.Store(true)
		return nil
	}
	l.buf = l.buf[:size]
	l.meter.peak.Store(max(size, l.meter.peak.Load()))
	return l.buf
}

// Free implements experimental.LinearMemory.
func (l *linear) Free() { l.buf = nil }

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
