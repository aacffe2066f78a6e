// Command store measures the block store (package cas) and programs that do the same work:
// b3sum, cp, casync, xdelta3, zsync. `make bench` installs them, makes a pair of root
// filesystems and runs it. Nothing else calls it.
//
// It prints tables of medians and ratios. Our runs and those of the other programs
// alternate, so that both see the same machine. The ratio counts: absolute figures depend
// on the machine and its load. Each run of ours is a process of its own, like each run of
// the others, so that its peak memory and processor time are its own.
//
// The inputs model what a publisher stores: random bytes, which nothing can compress (a
// squashfs is like that), and two consecutive builds of one root filesystem for the bytes
// of an update. It takes minutes and 15 GB of disk. There are no thresholds:
// docs/RATIONALE.md quotes the output.
//
// Start at main; ingest.go, pair.go and index.go each have a measurement, child.go the
// process that is measured.
package main
