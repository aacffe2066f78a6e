//go:build race

package plasm

// raceFactor: the race detector's shadow memory counts as data.
const raceFactor = 1 << 10
