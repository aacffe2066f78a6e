// Package repo reads and extends a repository folder: the TUF metadata that phase-sign
// init made and that a publisher signs on with its online key.
//
// Start at Open, then Check and Publish, which a new release goes through, and Renew,
// which signs the timestamp again. base.go decides what the next snapshot is built on;
// ReadPointer builds the metadata folder that the channel's IPNS name points to, and
// Verdict says what machines do with it.
//
// It writes in one order, the timestamp last, so that a reader sees the old release or
// the new one. It refuses a manifest that the repository's own root and delegation do not
// accept, a role version that is not newer, a date of signing in the future, an online key
// that root.json does not list, and a clock that contradicts what is published. It never
// holds a release key.
//
// Called by publisher and its subpackages. Limits: a metadata folder is one block of at
// most 1024 files; 64 versions back are searched for a release or its targets.
package repo
