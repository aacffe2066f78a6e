// Package arch has the tests for the structure of the tree: imports follow the table of
// rules_test.go, every package has a comment, and no file names a package registry or an
// unfinished task. It has no other code and no callers.
//
// Start at rules_test.go: its tables have each rule with the reason. docs/ARCHITECTURE.md shows the
// whole. A new package fails the test until it has a row there.
package arch
