// Package bootclient is the boot: it discovers sources, resolves the channel to the newest
// valid release, fetches the artifacts from many sources at once, verifies them and commits
// them to a sink.
//
// Start at [Run]. It is the same code on a host (phase-boot fetch, into a
// [DirSink]) and in the initramfs (package machine, into sealed memory). It
// trusts the root metadata in [Config] and nothing else: every source, also the disk
// cache, is read through cas.Get, and a source that sends one wrong
// block is not asked again in this run. A [Report] records what happened.
//
// A fetch is one queue (queue.go) over the leaves of all artifacts (download.go): jobs are
// runs of them at one source. Among peers, rendezvous hashing (swarm.go) decides which of them requests a leaf from an origin.
//
// Where the mode announces, a machine serves its verified blocks to others while it
// fetches, through the same gateway as a publisher (internal/gateway), at addresses that
// it announces through identify, mDNS and the DHT; [Seed] does so from a cache afterwards.
// Each block is hashed again before it is sent.
//
// It refuses a release that [manifest.Verify] does not return, and never calls a
// Sink's Commit before every artifact has the signed length and sha256 (a
// SelfVerifier compares the sha256 itself). It holds
// no block longer than it takes to verify and write it, so memory is bounded by
// the number of requests under way, whatever a source sends.
package bootclient
