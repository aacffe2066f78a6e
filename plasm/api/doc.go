// Package api has the types of the daemon's HTTP API: what plasmd serve reads and writes as JSON, over
// its unix socket and over libp2p streams.
//
// A job is submitted with POST to Jobs as multipart/form-data. Its parts are PartOrder, which is the
// signed order of a submitter and needed over the network, or PartJob, a Request, on the socket of the
// machine; then PartModule and PartInput where the job has them. Job is the answer to it, and to each
// question about it. An answer with a status of 400 and more is an Error.
//
// The package has types and paths only. plasm/daemon serves them, plasm/client asks for them.
package api
