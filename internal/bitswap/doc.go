// Package bitswap moves blocks between peers as stock IPFS nodes do: Bitswap 1.2
// (https://specs.ipfs.tech/bitswap-protocol/) over libp2p streams. [Serve] answers for a
// Store; [Client] asks a peer, one block at a time, and each [Peer] is a cas.Source.
//
// It is the way from and to nodes that are not ours. Ours speak HTTP (package gateway),
// which is several times faster and can give runs of blocks.
//
// Everything that is read is bounded and read piece by piece: a message of the greatest
// size costs no more memory than one block. A peer that sends a block that it was not
// asked for has lied, since wrong bytes have another name: its Source then returns
// cas.ErrCorrupt. What a Peer returns is otherwise not verified: read it through cas.Get.
//
// Limits: MaxMessage bytes a message, cas.MaxBlock bytes a block, 2048 wants and 4 streams
// at a time of a peer, 128 peers (64 of one address) that are answered at the same time, each
// with one message in memory.
package bitswap
