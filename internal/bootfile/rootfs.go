package bootfile

import "io"

// CheckRootfs refuses what the target cannot mount: everything but a squashfs 4.0 that is
// whole, and one that does not fit into the archive that carries it (4 GiB).
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
		return cut("root file system", size, end)
	}
	if major := little.Uint16(data[majorAt:]); major != 4 {
		return invalid("this is squashfs version %d; the target mounts version 4: make it again with a current mksquashfs", major)
	}
	if used := little.Uint64(data[usedAt:]); used > uint64(size) {
		return cut("root file system", size, int64(min(used, 1<<63-1)))
	}
	if size > MaxInitramfs {
		return invalid("a root file system of %d bytes; no machine takes 4 GiB or more, since it travels in the initramfs: make it smaller", size)
	}
	return nil
}
