// Command plasm measures plasmd and programs that do the same work: the job built for the host by Go,
// node's WASI, and wazero in this process. `make bench-plasm` builds the jobs and runs it. Nothing else
// calls it.
//
// It prints tables of medians and ratios. All runs alternate, so that all see the same machine. The ratio
// counts: absolute figures depend on the machine and its load. On a busy machine compare the processor
// time, which changes less. The peak of memory of a command is at least that of this program when it
// starts the command. There are no thresholds.
//
// Start at main; start.go measures the start of a job, compute.go a job that computes, crowd.go many
// jobs in a row, and idle.go the daemon without jobs.
package main
