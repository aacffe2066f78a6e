// Package jobs has jobs for plasmd, each a program in a folder of its own: honest ones (hello, reverse,
// primes, wordcount, and greet in WebAssembly text), and hostile ones (hog, spin, flood, deep, and table,
// imports and compilebomb of package plasm/wasmtest), each of which ends at a limit with a name. `make
// jobs` builds them into bin/jobs/, the same bytes on every host with the same version of Go: their hashes
// are in SHA256SUMS. The tests of this package run them.
package jobs
