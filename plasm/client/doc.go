// Package client asks the daemons of machines to run jobs: over the unix socket of this machine, or over
// libp2p streams.
//
// A Client speaks to one daemon. Unix returns that of this machine. Join enters the network of a
// repository: Network.Dial returns the Client of a peer, and Network.Find finds the daemons of all
// machines (mDNS, DHT). Submit sends a job, Follow copies its output until it is done, and Receipt
// returns the signed receipt. Start at Client.
//
// A daemon is not trusted. Its answers are bounded in size, its words are made printable, and a job
// that it returns must have the ID that was asked for. Find delivers whoever answers as a daemon of the
// repository: an order names the machine that may run it, and the receipt must be signed by this
// machine's key, which the caller checks.
//
// Errors have the exit code that the daemon named (refusal package). A machine that does not answer
// wraps cas.ErrUnreachable. cmd/plasmd is the only caller.
package client
