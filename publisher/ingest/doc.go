// Package ingest adds a signed release to a store and a repository.
//
// Start at Add: it checks the manifest, finds the file of each artifact by length and
// sha256 (find.go), chunks the files into the store while it compares them with the
// manifest (artifact.go), and then lets the repository publish the release.
//
// It refuses what repo.Check refuses, and an artifact that differs from the manifest by a
// byte. An error before the repository is written leaves it unchanged, and removes a store
// that was made for this release.
//
// Called by phase-publish add. Limits: a folder of artifacts has at most 10,000 files and
// 4 levels of subfolders.
package ingest
