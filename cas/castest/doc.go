// Package castest is the test suite for every cas.Store and cas.Source. The test of a store
// calls Run with a function that opens an empty store; the test of a source calls RunSource
// with a function that opens a source with given blocks. Only tests import it.
package castest
