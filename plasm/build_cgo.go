//go:build cgo

package plasm

// threadStacks is how much the C library maps for the stacks of later threads, in bytes; it uses little
// of it. plasmd as built by make has no C library.
const threadStacks = 8 * 8 << 20
