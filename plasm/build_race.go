//go:build race

package plasm

// raceFactor is the factor of RLIMIT_DATA: the race detector's shadow memory counts as data.
const raceFactor = 1 << 10

// stackFactor is the factor of the engine's stack: with the larger frames of the race detector, the
// deepest stack that the engine allows takes 64 MiB in place of 32 MiB.
const stackFactor = 2
