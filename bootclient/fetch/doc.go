// Package fetch brings the artifacts of one release into a sink: from the cache, from earlier
// files of the sink, and from all sources at once.
//
// Start at [All]. [Early] fetches the inner nodes and a few leaves of the newest release so far,
// while the search for a newer one goes on; All takes from them what the chosen release has. One
// goroutine owns the queue (queue.go), which assigns the leaves of all artifacts (download.go) to
// requests; every request is a goroutine of its own. How many may be under way at a source, and how
// large they are, is in window.go. A run of leaves is one request: for a CAR, or, at a static mirror,
// for a range of the whole file. nodes.go reads the inner nodes of a level at once. The endgame and the
// hedged requests are in queue.hedgedJob. Among peers, rendezvous hashing decides which of them requests
// a leaf from an origin (swarm.go). verify.go hashes each artifact as it arrives, unless the sink is a
// [SelfVerifier].
//
// It needs a manifest.Verified. It checks every leaf against its CID, and every artifact against the
// signed length and sha256; the sha256 of a SelfVerifier is checked in its Commit. It never calls
// Commit of a sink.
//
// Limits: 48 requests and so 48 blocks under way, 2^20 leaves of a release, 256 KiB and
// one more leaf of early leaves in memory.
package fetch
