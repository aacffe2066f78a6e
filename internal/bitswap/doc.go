// Package bitswap exchanges blocks with stock IPFS nodes: Bitswap 1.2
// (https://specs.ipfs.tech/bitswap-protocol/) over libp2p streams. [Serve] answers the wants
// of peers from a Store. [Client] requests blocks from peers, one at a time; each [Peer] is a
// cas.Source.
//
// It is only for nodes that do not speak HTTP. Publishers and machines use package gateway,
// which is several times faster and has runs of blocks. Package p2p is the only caller: see
// Node.ServeBitswap and Node.Bitswap.
//
// Everything that is read is bounded and parsed as it arrives: a message of the maximum size
// needs no more memory than one block. A peer that sends a block that was not requested is
// banned, since wrong bytes have another CID: its Peer then returns cas.ErrCorrupt for every
// block. Other blocks of a Peer are not verified: read them through cas.Get.
//
// Limits: MaxMessage bytes a message, cas.MaxBlock bytes a block, 2048 wants and 4 streams
// at a time for each peer, 128 peers (64 at one address) that are answered at the same time,
// each with one message in memory.
package bitswap
