// Package queue stores the jobs that a daemon has accepted: the record of each, its module and input
// until it ends, its output, and its receipt.
//
// It owns the states of a job. A job waits, is claimed by one worker, begins, and is finished once; the
// record on the disk says at each moment which of these it is. A job whose record says that it runs when
// the store is opened was interrupted: Interrupted returns it, and the caller finishes it. The package
// remembers the nonce of each signed order until the order has expired, so that none is accepted twice.
//
// It refuses a job that it has no room for, and drops the oldest finished jobs to make room. It judges no
// signature and runs nothing. Only plasm/daemon calls it. Start at Open, Queue.Accept, Queue.Claim and
// Queue.Finish.
//
// The records are in a bbolt database, whose transactions are durable when they return; modules, inputs
// and outputs are files beside it. docs/RATIONALE.md has the reasons.
//
// Limits: Options. One submitter gets at most as much of the waiting room as is left for the others.
package queue
