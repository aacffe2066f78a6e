// Package plasm runs the WebAssembly job of a release and makes a signed receipt of the run.
//
// A job is a WASI preview1 command. It gets its name as its only argument and an output to write
// to. It gets no files, network, environment, real clock or randomness of the host. Memory, time
// and output are limited; a job that reaches a limit is stopped, and its receipt names the limit.
//
// Start at Process.Run, which runs a Job under Limits in a process of its own and returns its
// Outcome, and at NewReceipt, which makes the receipt that plasmd signs and prints. Serve is the
// main function of that process. LoadJob reads the job of a release and refuses bytes that differ
// from the signed ones.
//
// It refuses every import except those of wasi_snapshot_preview1, and every module that declares
// more than the limits in lint.go. It makes no trust decision: the boot client has verified the
// release. Only cmd/plasmd calls it.
//
// Limits: jobs are interpreted (docs/RATIONALE.md has the reason). The two processes of a run use
// at most the job's memory limit + 64 MiB; the code that the engine makes from the module counts
// against the memory limit.
package plasm
