package kexecload

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// segmentsOf returns the memory of each segment.
func segmentsOf(p placement, n sizes) map[string]span {
	list := map[string]span{
		"kernel":      {p.kernel - n.textOffset, p.kernel + n.kernel},
		"device tree": {p.tree, p.tree + maxTree},
		"purgatory":   {p.purgatory, p.purgatory + n.page},
	}
	if n.initrd > 0 {
		list["initramfs"] = span{p.initrd, p.initrd + n.initrd}
	}
	return list
}

func within(s span, free []span) bool {
	for _, f := range free {
		if s.start >= f.start && s.end <= f.end {
			return true
		}
	}
	return false
}

func TestSegmentsAreInFreeMemoryAndApart(t *testing.T) {
	free, err := freeMemory(iomem, 4096)
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range map[string]sizes{
		"a kernel of Debian":         {kernel: 26*mib + 4097, initrd: 100*mib + 1, page: 4096},
		"an old kernel":              {textOffset: 0x80000, kernel: 20 * mib, initrd: 4097, page: 4096},
		"no initramfs":               {kernel: 20 * mib, page: 4096},
		"pages of 64 KiB":            {kernel: 20 * mib, initrd: 300 * mib, page: 65536},
		"initramfs in the other RAM": {kernel: 200 * mib, initrd: 500 * mib, page: 4096},
	} {
		p, err := place(free, n)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		all := segmentsOf(p, n)
		for a, s := range all {
			if !within(s, free) {
				t.Errorf("%s: %s at %#x is not in free memory", name, a, s)
			}
			for b, other := range all {
				if a != b && s.start < other.end && other.start < s.end {
					t.Errorf("%s: %s %#x overlaps %s %#x", name, a, s, b, other)
				}
			}
		}
		if (p.kernel-n.textOffset)%block != 0 || p.tree%block != 0 || p.purgatory%n.page != 0 || p.initrd%n.page != 0 {
			t.Errorf("%s: alignment of %#x", name, p)
		}
	}
}

func TestTheInitramfsIsIn32GiBAroundTheKernel(t *testing.T) {
	n := sizes{kernel: 20 * mib, initrd: 10 * mib, page: 4096}
	low := span{3<<30 + 512*mib, 3<<30 + 540*mib}
	p, err := place([]span{low, {3<<30 + windowSize - 20*mib, 1 << 40}}, n)
	if err != nil || p.initrd != 3<<30+windowSize-20*mib {
		t.Errorf("%#x, %v", p, err)
	}
	if _, err = place([]span{low, {3<<30 + windowSize, 1 << 40}}, n); !errors.Is(err, unix.ENOMEM) {
		t.Errorf("beyond: %v", err)
	}
}

func TestWhatHasNoRoomIsRefused(t *testing.T) {
	ram := []span{{0x40000000, 0x48000000}}
	for name, row := range map[string]struct {
		n    sizes
		want error
	}{
		"kernel":               {sizes{kernel: 129 * mib, page: 4096}, unix.ENOMEM},
		"initramfs":            {sizes{kernel: 64 * mib, initrd: 64 * mib, page: 4096}, unix.ENOMEM},
		"no device tree":       {sizes{kernel: 128 * mib, page: 4096}, unix.ENOMEM},
		"no purgatory":         {sizes{kernel: 126 * mib, page: 4096}, unix.ENOMEM},
		"kernel of 64 bits":    {sizes{kernel: 1<<64 - 1, page: 4096}, unix.EINVAL},
		"initrd of 64 bits":    {sizes{kernel: mib, initrd: 1<<64 - 1, page: 4096}, unix.EINVAL},
		"an offset that wraps": {sizes{textOffset: 4096, kernel: 1<<64 - 4096, page: 4096}, unix.EINVAL},
	} {
		if p, err := place(ram, row.n); !errors.Is(err, row.want) {
			t.Errorf("%s: %#x, %v", name, p, err)
		}
	}
	if _, err := place(nil, sizes{kernel: mib, page: 4096}); !errors.Is(err, unix.ENOMEM) {
		t.Errorf("no memory: %v", err)
	}
}
