// Package store opens and cares for a publisher's store, a folder of packs or an address in an object
// store, and reports on the repository whose releases it holds.
//
// Start at Open, which returns Packs. Complete says whether every block of a release is listed; Fsck hashes all
// blocks and repairs them from a peer; GC removes blocks that no kept release needs;
// ReadStats counts blocks by release; ReadStatus reports store, repository and the machines'
// verdict; Get writes the files of a release. In an object
// store PutMetadata writes the metadata beside the blocks, and a Replica reads them (metadata.go).
//
// It refuses a folder that is not a store, so that a mistyped name never becomes an empty
// store of a repository with releases (open.go). GC removes nothing unless every kept
// release is complete. Get never puts files of two releases into one folder.
//
// Called by publisher, ingest, mirror and cmd/phase-publish. It does not sign, and it opens
// no network connection but that of an object store: a peer is passed in as a cas.Source.
package store
