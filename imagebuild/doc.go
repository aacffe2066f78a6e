// Package imagebuild makes the images that machines boot from: the boot kernel, the
// initramfs of both roles, the target's root filesystem, the EFI system partition, the USB
// image and the UKI, from Debian's packages and a root.json. cmd/phase-image calls it.
//
// Start at Builder: each Write method makes one image and gives it its final name when it
// is complete. The same inputs give the same bytes; the time in every header is
// SOURCE_DATE_EPOCH or, without it, the newest date of the inputs. Verify reads an image as
// firmware, loader and kernel do (readdisk.go, gpt.go, fat.go, readuki.go). Rebuild builds
// it again from the packages that it lists (inputs.go) and names the first part that differs (differ.go).
// PrepareWrite opens a device for it (devices.go, blockdevice.go), and Write.Run writes it (write.go).
// WriteDisk makes the same disk for virtual machines (vmdisk.go, bundle.go, package diskformat),
// WriteISO a CD that is also a stick (iso.go).
//
// Settings are files, not code: kernel/ lists modules, initramfs/ the busybox applets,
// rootfs/ the packages and added files, esp/ the loader's settings. Boot modes are files of
// package modes. Tor is added on request only (tor.go), and GRUB (grub.go).
//
// It needs neither root rights nor loop mounts. Packages come through the host's apt (so
// the host is Debian or a derivative). Those of another architecture come through lists in the
// build cache (lists.go), and their root filesystem is unpacked, not installed (foreign.go).
// mkfs.vfat, mtools, mke2fs, sgdisk and mksquashfs make the filesystems, and zstd compresses. It
// refuses an unknown architecture or flavour. It decides nothing about trust: manifest checks
// root.json, which is then copied unchanged. It has no keys but those of Secure Boot, which
// sbkeys.go makes and package authenticode uses.
// An error in the options wraps fs.ErrInvalid: the user must change the command line.
package imagebuild
