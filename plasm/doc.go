// Package plasm runs a WebAssembly job in a sandbox. Package plasm/receipt makes a signed receipt of the run.
//
// A job is a WASI preview1 command. It gets its name and an output to write to, and what its Spec asks
// for: arguments, environment, stdin, a scratch folder in memory, artifacts of the release, the clock,
// random numbers. It never gets a network or files of the host. Every limit that ends a job has a reason
// of its own in the Outcome.
//
// Start at Process.Run, which runs a Job with a Spec in a process of its own and returns its Outcome.
// Serve is the main function of that process: confine sets its resource limits, isolate takes away the
// file system, the network and the user, filter the system calls. OpenCgroups gives each process a control group, if
// a service manager has delegated one. LoadJob reads the job of a release and
// refuses bytes that differ from the signed ones.
//
// A CodeCache stores what the compiler made of a module. Its code comes from a process that runs no job.
//
// It refuses every import except those of wasi_snapshot_preview1, and every module that declares
// more than the limits in lint.go. It makes no trust decision: the boot client has verified the
// release, and plasm/order an order.
//
// Limits: the two processes of a run use at most the job's memory limit, its scratch folder and 64 MiB;
// the code that the engine makes from the module counts against the memory limit. docs/RATIONALE.md has
// the reasons, and which engine runs a job.
package plasm
