// Package cache is the store of blocks on the machine's own disk: a source that is read before
// all others, and that may be damaged or written by an attacker.
//
// Start at [Open]: the deadline, the recovery of a damaged cache, and what happens to one that
// another process writes. [Cache.Get] and [Cache.Put] are the only ways to its blocks, and Get is
// a verified read (cas.Get). [Cache.MakeRoom] removes blocks that a release does not need.
// [Dir] names the folders; the saved metadata in it belong to manifest.State.
//
// It refuses folders with other files, links in place of folders, and files of a wrong kind. An
// error ends neither a boot nor a fetch, unless a person named the cache. It never decides which
// release is valid.
package cache
