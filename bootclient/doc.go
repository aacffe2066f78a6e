// Package bootclient is the boot: it finds sources, resolves the channel to the newest valid
// release, fetches the artifacts, verifies them and commits them to a sink.
//
// Start at [Run], whose steps are these packages: cache (the machine's own disk), share (serving
// others), peers (finding sources), resolve (choosing the release), fetch (the artifacts). Each
// step writes to a report; timing has all pauses and limits. [Seed] serves a cache afterwards
// (package seed). It is the same code on a host (phase-boot fetch, into a [DirSink]) and in the
// initramfs (package machine, into sealed memory).
//
// It trusts the root metadata in [Config] and nothing else. It refuses a release that
// manifest.Verify does not return, and calls a Sink's Commit only after every artifact has the
// signed length and sha256 (a fetch.SelfVerifier compares the sha256 itself). A source that sent
// a wrong block is banned for this run.
//
// Limits: a block is held no longer than it takes to verify and write it, so that memory is
// bounded by the number of requests under way, and by 256 KiB of leaves that are fetched before the
// release is chosen.
package bootclient
