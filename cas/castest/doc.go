// Package castest is the one suite that every cas.Store passes. A store's test calls
// Run with a function that opens an empty one.
package castest
