// Package kexecload starts an arm64 kernel with kexec_load(2), for boot kernels without
// kexec_file_load(2). Only bootclient/machine calls it.
//
// It owns what kexec_file_load does inside the kernel: it reads which memory is free (iomem.go),
// places kernel, initramfs, device tree and purgatory in it (place.go), writes /chosen of the device tree (tree.go),
// and hands the segments to the kernel (load.go). Start at [Load].
//
// Kernel and initramfs are sealed memfds whose bytes were verified after they were sealed. They are mapped
// read-only, so the kernel copies the verified pages and no other copy exists.
//
// It refuses a kernel in another form than an Image (Documentation/arch/arm64/booting.rst), a device tree
// over 2 MiB, and a memory map that it cannot read. A locked down kernel refuses kexec_load.
package kexecload
