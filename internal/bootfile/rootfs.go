package bootfile

import "io"

// CheckRootfs refuses a file that the target cannot mount: it must be a complete squashfs 4.0 that fits
// into an initramfs archive (4 GiB).
func CheckRootfs(r io.ReaderAt, size int64) error {
	const majorAt, usedAt, end = 28, 40, 96
	data, err := head(r, size, headSize)
	if err != nil {
		return err
	}
	if kind := identify(data); kind != KindSquashFS {
		return notA("a squashfs file system", kind, "the target mounts squashfs only: make one with 'phase-image rootfs' or mksquashfs")
	}
	if len(data) < end {
		return truncated("root file system", size, end)
	}
	if major := little.Uint16(data[majorAt:]); major != 4 {
		return invalid("this is squashfs version %d; the target mounts version 4: make it again with a current mksquashfs", major)
	}
	if used := little.Uint64(data[usedAt:]); used > uint64(size) {
		return truncated("root file system", size, int64(min(used, 1<<63-1)))
	}
	if size > MaxInitramfs {
		return invalid("a root file system of %d bytes; the limit is 4 GiB, because it is part of the initramfs: make it smaller", size)
	}
	return nil
}
