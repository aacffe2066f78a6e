// Package netboot serves EFI programs, which phase-image uki makes, to machines that boot without
// a stick: with the headers that firmware needs, and with scripts for iPXE.
//
// Start at Open. publisher.Serve mounts the files beside the gateway; Export copies them into a
// mirror, for phase-publish export.
//
// It refuses every other kind of file. It signs and verifies nothing: a machine trusts the program
// that it starts, or its firmware checks it (docs/SECURE-BOOT.md).
package netboot
