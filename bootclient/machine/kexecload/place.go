package kexecload

import (
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	// block is the alignment of a kernel, and of the largest device tree
	// (Documentation/arch/arm64/booting.rst).
	block   = 2 << 20
	maxTree = block
	// The initramfs is within 32 GiB of memory that contain the kernel and begin at a multiple of 1 GiB.
	windowAlign = 1 << 30
	windowSize  = 32 << 30
)

// sizes are the lengths to place, in bytes.
type sizes struct {
	textOffset uint64 // of the kernel in its first block
	kernel     uint64 // with the memory that it clears itself
	initrd     uint64 // 0 for none
	page       uint64
}

// A placement has the physical address of each segment.
type placement struct {
	kernel, initrd, tree, purgatory uint64
}

// place chooses addresses in free memory. The kernel comes first, at the lowest address that has room
// for it, because kernels before Linux 4.6 cannot use memory below themselves.
func place(free []span, n sizes) (p placement, err error) {
	base, free, err := take(free, n.textOffset+n.kernel, block, span{0, maxAddress})
	if err != nil {
		return p, fmt.Errorf("kernel: %w", err)
	}
	p.kernel = base + n.textOffset
	if p.tree, free, err = take(free, maxTree, block, span{0, maxAddress}); err != nil {
		return p, fmt.Errorf("device tree: %w", err)
	}
	if p.purgatory, free, err = take(free, n.page, n.page, span{0, maxAddress}); err != nil {
		return p, fmt.Errorf("purgatory: %w", err)
	}
	if n.initrd > 0 {
		window := span{start: base &^ (windowAlign - 1)}
		window.end = window.start + windowSize
		if p.initrd, _, err = take(free, n.initrd, n.page, window); err != nil {
			return p, fmt.Errorf("initramfs: %w", err)
		}
	}
	return p, nil
}

// take returns the lowest address in a window where size bytes are free in one piece, and the free
// memory without them, rounded up to the alignment.
func take(free []span, size, align uint64, window span) (uint64, []span, error) {
	if size = roundUp(size, align); size == 0 || size > maxAddress {
		return 0, nil, fmt.Errorf("%w: %d bytes cannot be placed", unix.EINVAL, size)
	}
	for i, f := range free {
		at := roundUp(max(f.start, window.start), align)
		end := min(f.end, window.end)
		if at >= end || end-at < size {
			continue
		}
		left := append([]span{}, free[:i]...)
		for _, s := range []span{{f.start, at}, {at + size, f.end}} {
			if s.start < s.end {
				left = append(left, s)
			}
		}
		return at, append(left, free[i+1:]...), nil
	}
	return 0, nil, fmt.Errorf("%w: no %d MiB of memory in one piece", unix.ENOMEM, (size+1<<20-1)>>20)
}
