// Package bootset owns the boot sets on the EFI system partition of a stick: which names and texts they have,
// which is started next, and how a newer one is written beside them (docs/RENEW.md). A boot set is a boot
// kernel and its initramfs. The machine and phase-image write sets with it, and phase-image verify reads them
// by the same rules. Start at Open.
//
// A stick keeps the set that it was built with. A renewed set has a folder of its own, NUMBER-DIGEST, and
// boot entries with systemd-boot's boot counting (Boot Loader Specification, "Boot counting"): MODE_NUMBER+3.conf
// is started three times at most, and MODE_NUMBER.conf, after Bless, always.
//
// The power may be cut at any moment (package fat32): the entries of a set are written last.
//
// It decides nothing about trust. The caller passes files of a verified release, and has checked that the
// initramfs has a root of its repository (Settings reads it).
package bootset
