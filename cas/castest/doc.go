// Package castest is the one suite that every cas.Store and cas.Source passes. A store's test
// calls Run with a function that opens an empty one, a source's test RunSource with one that
// opens it with the blocks it is to have.
package castest
