// Package plasm runs a release's WASM job and writes the receipt of it.
//
// A job is a WASI preview1 command. It gets its own name as its only argument, an
// output to write to, and nothing else: no files, no network, no environment, no
// real clock, no randomness of the host. Memory, time and output are bounded, and
// a job that crosses a bound is stopped and its receipt says which.
//
// Start at Process.Run, which runs a Job under Limits in a process of its own and
// returns its Outcome, and at NewReceipt, which turns both into the signed object that
// plasmd prints. Serve is that process. Run is the same within the calling process, with
// softer limits. LoadJob finds the job of a release and refuses bytes that are not the
// signed ones.
//
// It refuses every import but wasi_snapshot_preview1 and every module that declares more
// than the bounds in lint.go, and decides nothing about trust: the release it is handed
// was verified by the boot client. Only cmd/plasmd calls it.
//
// Limits: jobs are interpreted (docs/RATIONALE.md says why). The two processes of a run
// take at most the job's memory limit + 64 MiB; lowered code counts against it.
package plasm
