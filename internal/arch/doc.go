// Package arch holds the tests that keep the tree as DESIGN.md draws it: imports that
// point one way, a package comment everywhere, and no text that ties the tree to one
// machine. It has no code of its own; start at rules_test.go, whose tables give each
// rule and its reason. A new package fails the test until it has its row.
package arch
