// Package seed serves what an earlier boot or fetch left on a disk: the cache, and the artifacts
// in a folder. It is phase-boot seed, and a machine after the jump into its target.
//
// Start at [Serve]. It verifies the pointers of the cache with package resolve and serves the
// newest valid release through package share; it looks for a newer pointer every
// timing.LookAgain.
//
// It writes nothing, and fetches nothing. A damaged block of the cache is read from the folder of
// artifacts, or not served.
package seed
