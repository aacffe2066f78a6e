// Package cas names bytes by their hash, and keeps and reads them by that name.
//
// It owns the CIDs that Phase Boot accepts, the chunkers, the UnixFS DAG of a
// file or a folder, and two stores: Memory and Packs. It trusts nothing that it
// reads: a Source may lie, and Get is the only way to read one. It refuses
// every name but CIDv1, raw or dag-pb, blake3 or sha2-256 of 32 bytes, at every
// link and not only at the root. It knows nothing of networks, keys or releases.
//
// Writing starts at AddFile and AddDir; reading at Leaves (many blocks, any
// order), Copy (a stream) or ReadFile (a small file in memory). A durable store
// is OpenPacks.
//
// Limits: MaxBlock bytes a block, MaxLinks links a node, MaxDepth levels of inner
// nodes, MaxLeaves leaves a file, MaxName bytes a file name. Whatever a DAG
// says of its sizes is counted at each visit, so repeating a link buys nothing.
package cas
