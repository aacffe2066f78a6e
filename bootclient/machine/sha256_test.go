package machine

import (
	"bytes"
	"crypto/sha256"
	"sync/atomic"
	"testing"
)

// The kernel may lack AF_ALG; then the result is Go's. Boots in QEMU without KVM have it.
func TestSHA256OfARange(t *testing.T) {
	data := noise(7, 3*pipeSize+12345)
	f, err := memfd("test")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if err := seal(f); err != nil {
		t.Fatal(err)
	}
	for _, inKernel := range []bool{false, true} {
		for _, r := range [][2]int{{0, len(data)}, {0, 0}, {1, 1}, {4095, pipeSize + 1}, {len(data) - 5, 5}} {
			var done atomic.Int64
			sum, err := sumSHA256(f, int64(r[0]), int64(r[1]), &done, inKernel)
			want := sha256.Sum256(data[r[0] : r[0]+r[1]])
			if err != nil || !bytes.Equal(sum, want[:]) || done.Load() != int64(r[1]) {
				t.Errorf("in the kernel: %v, %d bytes at %d: got %x, %v, %d counted; want %x", inKernel, r[1], r[0], sum, err, done.Load(), want)
			}
		}
	}
}
