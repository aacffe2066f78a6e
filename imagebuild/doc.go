// Package imagebuild makes the images that machines boot from: the boot kernel, the
// initramfs of both roles, the target's root filesystem, the EFI system partition and
// the USB image, from Debian's packages and a root.json. cmd/phase-image calls it.
//
// Start at Builder: each method makes one image and writes it under its final name only
// when it is whole. The same inputs give the same bytes; the time in every header is
// SOURCE_DATE_EPOCH or, without it, the newest date that the inputs themselves carry.
//
// Data that a person may want to change is not code: kernel/ lists modules, initramfs/
// the busybox applets, rootfs/ the packages and the files laid over them, and esp/ the
// loader's settings. The boot modes are files of package modes.
//
// It needs no root rights and no loop mounts: packages come through the host's own apt
// (so the host is a Debian or one of its children), filesystems are made by the tools
// that everyone has. It refuses an architecture or a flavour that it does not know. It
// holds no keys and takes no decision about trust: root.json is checked as the machine
// will check it, then copied byte for byte.
package imagebuild
