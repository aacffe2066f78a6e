//go:build race

package plasm

// raceFactor: the race detector's shadow memory counts as data.
const raceFactor = 1 << 10

// stackFactor: the race detector's frames are larger, and the deepest stack that the engine
// allows takes 64 MiB in place of 32 MiB.
const stackFactor = 2
