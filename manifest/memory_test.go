//go:build !race

package manifest

import (
	"runtime"
	"testing"
)

// The race detector allocates on its own account, so `make check` measures this and the
// run under the detector cannot.

// The memory is what one check allocates in all, garbage included: no less than it holds.
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
