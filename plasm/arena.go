package plasm

import "golang.org/x/sys/unix"

// blockSize is the unit of space in a scratch folder, in bytes.
const blockSize = 4 << 10

// An arena is a bounded range of memory outside of Go's heap, divided into blocks.
type arena struct {
	space []byte
	used  int32   // blocks that were given out at least once; the rest has zeros
	freed []int32 // blocks among them that are free
}

// newArena reserves size bytes, a multiple of blockSize. The kernel provides memory at its first use.
func newArena(size int64) (*arena, error) {
	if size == 0 {
		return new(arena), nil
	}
	space, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	return &arena{space: space}, nil
}

// take returns a block of zeros, or false if all blocks are in use.
func (a *arena) take() (int32, bool) {
	if n := len(a.freed); n > 0 {
		b := a.freed[n-1]
		a.freed = a.freed[:n-1]
		clear(a.block(b))
		return b, true
	}
	if int64(a.used) >= int64(len(a.space)/blockSize) {
		return 0, false
	}
	a.used++
	return a.used - 1, true
}

func (a *arena) give(b int32) { a.freed = append(a.freed, b) }

func (a *arena) block(b int32) []byte {
	from := int64(b) * blockSize
	return a.space[from : from+blockSize : from+blockSize]
}

func (a *arena) close() {
	if a.space != nil {
		_ = unix.Munmap(a.space) // cannot fail for our own mapping
		a.space = nil
	}
}
