// Package daemon is plasmd serve: it accepts jobs, runs them side by side, and serves their output and
// receipts over HTTP (types in plasm/api).
//
// It has two handlers. Local is for the unix socket of the machine, whose permissions decide who may submit.
// Network is for libp2p streams: it accepts only orders that a submitter of the verified release has signed
// (plasm/order), answers about a job to whoever knows its ID, and lists the jobs of the submitter whose key
// is that of the connection.
//
// Every job that is accepted gets one outcome and one receipt, see plasm/queue. Start at New, then serve the
// handlers and call Run, which returns when its context has ended and each running job has its outcome.
//
// It refuses, before it reads a module: what is not signed, a replay, and a job that has no place in the
// queue. Limits: Options; uploads at once, and refused requests of one client, see limits.go.
package daemon
