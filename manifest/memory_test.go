//go:build !race

package manifest

import (
	"runtime"
	"testing"
)

// The race detector allocates memory itself, so only a run without it measures this.

// The test counts all allocations of one check, including memory that is freed meanwhile.
func TestVerifyStaysWithinItsMemory(t *testing.T) {
	r := largeRepo(t)
	p := r.policy("")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r.boot(r.files, p)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > budgetBytes {
		t.Errorf("%d bytes allocated; the budget is %d", n, budgetBytes)
	}
}
