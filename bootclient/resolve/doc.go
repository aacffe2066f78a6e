// Package resolve finds the newest valid release of a channel. It asks every source for its
// pointers (IPNS records), reads the metadata directory of each, and has manifest.Verify judge it.
//
// Start at [Find]; resolver.finished says when the search is over, and [Newer] which of two
// releases is newer. docs/PATIENCE.md is the contract of its waiting.
//
// It trusts no pointer, and accepts only a release that manifest.Verify returns. It saves the
// metadata and the pointer of the chosen release in the cache. It reads no artifact: while it
// searches, it gives the newest release so far to [Options].Early.
//
// Limits: 64 directories at a time, 32 announcers of each.
package resolve
