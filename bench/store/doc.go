// Command store measures the store beside the tools that do the same work, and prints a
// table of medians and ratios. Runs of ours and of a peer take turns, so that both see
// the same machine; the ratio counts, not the figure. `make bench` installs the peers,
// makes the pair of root filesystems and runs it.
//
// Each of our runs is a process of its own, as each run of a peer is.
package main
