// Package gpt makes the last partition of a GUID partition table as large as its disk, and moves the
// backup of the table to the end of the disk (UEFI 2.10, chapter 5). The boot client grows the cache
// partition of a stick with it. Start at Grow.
//
// It changes only tables that phase-image makes: of the layout that sgdisk writes (128 entries of 128
// bytes after the header, in sectors of 512 bytes), with a partition named PHASE-CACHE after EFI system
// partitions. It refuses every other one, because the free sectors of another disk belong to a person. After each write of a sector the first table of
// the disk is valid, so the power may be cut at any moment; the next call completes the work.
package gpt
