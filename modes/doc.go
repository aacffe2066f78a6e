// Package modes has the boot modes: one JSON file each. A mode is a policy: how a machine finds
// sources, whether it may write to its cache partition, and what it shows of itself on the
// network. A mode never decides about trust; root.json does.
//
// The files of this folder are shipped: the programs contain them. A [Set] adds other files:
// phase-image --mode takes them and writes all modes of an image into its initramfs, where the
// boot client reads them with [ReadDir]. docs/ADDING-A-MODE.md shows it. Unknown fields and
// unknown values are errors; the package's test loads every shipped file.
//
// Start at [Mode], whose comments describe each field.
package modes
