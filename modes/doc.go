// Package modes holds the boot policies: one JSON file each, compiled in. A mode
// says how a machine finds sources, whether it may write its cache partition and
// what of itself it shows to the network. It never says whom to trust: that is
// root.json alone.
//
// To add a mode, add its file here and an entry for the boot menu; no code. The
// boot client reads a mode with [Load]; phase-image makes a menu entry for each of
// [Names]. Unknown fields and values are refused when a mode is loaded, and the
// package's test loads every file.
package modes
