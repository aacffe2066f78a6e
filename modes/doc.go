// Package modes has the boot modes: one JSON file each, compiled into the programs. A mode
// is a policy: how a machine finds sources, whether it may write to its cache partition, and
// what it shows of itself on the network. A mode never decides about trust; root.json does.
//
// To add a mode, add its file here: phase-image makes a boot menu entry for each of [Names].
// The boot client reads a mode with [Load]. Unknown fields and unknown values are errors; the
// package's test loads every file.
//
// Start at [Mode], whose comments describe each field.
package modes
