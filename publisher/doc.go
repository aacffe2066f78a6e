// Package publisher keeps releases and serves them: it ingests what was signed, moves
// the channel's head, announces it and answers for its blocks.
//
// Start at Add, which compares every artifact with the signed manifest while it goes
// into the store and then writes the new snapshot and timestamp, and at Serve, the
// daemon: the trustless gateway over HTTP and over libp2p streams, Bitswap for stock IPFS
// nodes, mDNS, the DHT, the IPNS record, and a timestamp that is signed again before it
// expires. Bootstrap is a DHT node and nothing else; Export writes a mirror for any web
// server; ReadStatus says what is published and, with the machines' own check, whether and
// until when they accept it.
//
// A publisher holds the online key (snapshot and timestamp) and the IPNS key, never a
// release key: it can withhold releases, not forge one. It refuses a manifest that the
// repository's own root and delegation do not accept, a role version that is not
// newer, a date of signing that is still to come, artifacts that differ from the
// manifest by a byte, and an online key that root.json does not name. It writes to the
// repository in one order, the timestamp last, so that a reader sees the old release or
// the new one.
//
// cmd/phase-publish calls it with keys that are loaded already. Limits: a metadata
// folder is one block of at most 1024 files; the heads of the last three generations
// are kept in memory for machines that are under way.
package publisher
