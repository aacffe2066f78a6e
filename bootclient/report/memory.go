package report

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// sampleEvery is how often the memory in use is looked at.
const sampleEvery = 250 * time.Millisecond

// SampleMemory records, from now on, the most memory that was in use during each step. used returns
// the bytes in use. The samples end with stop.
func (r *Report) SampleMemory(used func() int64) (stop func()) {
	r.mu.Lock()
	r.used = used
	r.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		tick := time.NewTicker(sampleEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				r.mu.Lock()
				r.sample()
				r.mu.Unlock()
			case <-ended:
				return
			}
		}
	}()
	return func() { close(ended) }
}

// sample adds the memory in use to the steps that run. r.mu is locked.
func (r *Report) sample() {
	if r.used == nil {
		return
	}
	n := r.used()
	for _, s := range r.data.Steps {
		if !s.ended {
			s.Memory = max(s.Memory, n)
		}
	}
}

// MemoryPeak returns the step during which the most memory was in use, and how much that was.
func (r *Report) MemoryPeak() (step string, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sample()
	for _, s := range r.data.Steps {
		if s.Memory > n {
			step, n = s.Name, s.Memory
		}
	}
	return step, n
}

// processPeak returns the peak of this process's memory in bytes, 0 if the kernel does not
// report it.
func processPeak() int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}
