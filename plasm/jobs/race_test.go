//go:build race

package jobs

// raceDetector makes compiling and large modules too slow for a test.
const raceDetector = true
