// Package fat32 adds files to a FAT32 filesystem and removes them ("Microsoft EFI FAT32 File System
// Specification", 1.03), such as the EFI system partition of a stick, without a mount. Package bootset
// writes boot sets with it. Start at Open.
//
// The power may be cut at any moment: the files of before stay as they are, and a file that is written
// appears when it is complete. The order of the writes is: content, then the FAT, then the one sector with the
// entry of the file; a sync is between them. A cut may leave clusters that belong to no file, and copies
// of the FAT that differ; the first change after it mends both. Firmware reads the first copy.
//
// It refuses a damaged filesystem (ErrLayout), sectors that do not have 512 bytes, and a FAT of more than
// 8 MiB. It has the FAT in memory, and a folder that it reads. It does not rename: a name is changed by
// a new file.
package fat32
