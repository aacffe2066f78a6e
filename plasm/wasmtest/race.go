//go:build race

package wasmtest

// RaceDetector makes compiling and large modules too slow for a test, and raises the limits of memory.
const RaceDetector = true
