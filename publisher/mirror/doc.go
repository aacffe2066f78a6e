// Package mirror writes a repository's releases as a folder that any web server can serve:
// its paths are the URLs of a trustless gateway; or as objects of an object store, for a CDN
// (bucket.go).
//
// Start at Export. plan.go lists the files, check.go refuses a folder that is not a mirror of
// this repository, mirror.go writes files in stages, and ledger.go keeps the list of what
// earlier exports wrote, so that nothing else is ever removed.
//
// It may be killed at any moment, and clients may read meanwhile: a file gets its name only
// when it is complete and on the disk, and what points to other files is written after them.
// It refuses an expired or older repository, a folder with other content or a private key,
// and a mirror inside the store or the repository.
//
// Called by phase-publish export. Limits: 2048 files are synced at once; it signs IPNS
// records, never metadata.
package mirror
