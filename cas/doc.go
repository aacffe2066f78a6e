// Package cas names blocks by their hash (content-addressed storage) and reads files and
// folders that are made of such blocks.
//
// It owns the CIDs that Phase Boot accepts, the chunkers, the UnixFS DAG of a file or a
// folder, and a store in memory; cas/pack is the store on disk. It trusts no source: the
// bytes of a Source are unchecked, and Get, Append and ReadSection are the only functions
// that read them. It refuses, at every link, every CID but CIDv1 with codec raw or dag-pb
// and a blake3 or sha2-256 digest of 32 bytes. It uses no network, no key and no release.
//
// signer, publisher, bootclient and plasm call it. Writing starts at AddFile and AddDir;
// reading at Leaves (many blocks, in any order), Copy (a stream), NewReader (from any offset)
// or ReadFile (a small file in memory). cut.go and gear.go find the cut points, also the starts of zstd frames.
//
// Limits: MaxBlock bytes in a block, MaxLinks links in a node, MaxDepth levels of inner
// nodes, MaxLeaves leaves in a file, MaxName bytes in a file name. A repeated link is
// counted at each visit, so a few blocks cannot stand for an endless file.
package cas
