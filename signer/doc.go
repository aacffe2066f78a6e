// Package signer creates and changes repositories and signs release manifests. It is the code of
// cmd/phase-sign and never runs on a booting machine or in a publisher.
//
// Start at Init for a new repository, at Release for a release (it hashes the files itself), at Add
// for one more signature, at Rotate for new keys or dates. Promote and Rollback sign existing
// content again. Show describes a file, Verify checks files against a trusted root.json, History
// and Channels list releases. Keys come from signer/key.
//
// It decides nothing about trust: package manifest verifies signatures, thresholds, versions and
// dates, and signer shows the result. It reads and writes files and words messages.
//
// It refuses a key that the repository does not list for a role, a file that was changed after it
// was signed, an expired repository, and to replace an existing repository. It opens no network
// connection.
package signer
