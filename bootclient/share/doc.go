// Package share serves the verified blocks of a machine to other machines, while it fetches and
// after it, through the same gateway as a publisher (internal/gateway).
//
// Start at [Start]; [Blocks] are the blocks that are served, each leaf read back from where it
// was written. [Open] opens a gateway on plain HTTP and on libp2p streams; package seed uses it too.
//
// Only a mode that announces and has no proxy serves. Every block is hashed again before it is
// sent, because no source here is a cas.FileSource. The machine announces its artifacts in the DHT,
// never the metadata.
//
// Limits: 384 HTTP connections, 96 peers, 16 answers with leaves at a time, 4 MiB of metadata
// files that only others need.
package share
