// Package diskformat writes a raw disk as a QCOW2, VMDK, VHDX or Parallels image for virtual
// machines, and reads such images back. imagebuild calls it; start at Write and Open.
//
// Each format has one form here: the header and all tables, then the blocks of the disk that are
// not zero, in order and without gaps. The tables depend only on the blocks, and the identifiers
// in them (VMDK's CID, VHDX's GUIDs) are derived from the blocks, so the same disk gives the same
// bytes on every machine. Blocks of zeros take no space.
//
// Open accepts nothing else: it makes header and tables again from the blocks that it found and
// compares every byte. An image that refers to another file (a backing file, an external extent, a
// parent), has a snapshot, a log, or two tables that differ is cas.ErrCorrupt. Sizes in the
// image never decide how much memory is used: a disk has at most MaxSize bytes.
//
// The specifications: QEMU docs/interop/qcow2 and parallels; VMware, Virtual Disk Format 5.0;
// Microsoft MS-VHDX. The tests let qemu-img check and compare every image.
package diskformat
