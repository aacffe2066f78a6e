//go:build cgo

package plasm

// threadStacks is what the C library maps for the stacks of threads that start later,
// in bytes, and hardly touches. plasmd as make builds it has no C library.
const threadStacks = 8 * 8 << 20
