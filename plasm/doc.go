// Package plasm runs a release's WASM job and writes the receipt of it.
//
// A job is a WASI preview1 command. It gets its own name as its only argument, an
// output to write to, and nothing else: no files, no network, no environment, no
// real clock, no randomness of the host. Memory, time and output are bounded, and
// a job that crosses a bound is stopped and its receipt says which.
//
// Start at Run, which runs a Job under Limits and returns its Outcome, and at
// NewReceipt, which turns both into the signed object that plasmd prints. LoadJob
// finds the job of a release and refuses bytes that are not the signed ones.
//
// It refuses every import but wasi_snapshot_preview1, and decides nothing about
// trust: the release it is handed was verified by the boot client. Only cmd/plasmd
// calls it.
//
// Limits: one job at a time, in the calling process, interpreted (docs/RATIONALE.md
// says why). What a job may use of the host beyond its linear memory, such as a deep
// stack, is watched by sampling and so bounded roughly, not exactly.
package plasm
