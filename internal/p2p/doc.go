// Package p2p is the peer-to-peer side of publishers and booting machines: one
// libp2p host with a Kademlia DHT, mDNS on the local network, the trustless
// gateway over streams, Bitswap for stock IPFS nodes, and IPNS records.
//
// It decides nothing about trust. Peers, addresses and provider records are unverified
// hints; an IPNS record is a signed pointer whose target must still pass manifest.Verify.
// It refuses mDNS addresses outside the networks of this machine's interfaces, more than
// maxFound peers from mDNS, more connections, streams and memory than limits.go allows, and
// a routing table filled from one network.
//
// Start at New. The publisher calls Serve, Provide and PutIPNS; the boot client calls
// MDNSPeers, FindProviders, GetIPNS, Gateway and HTTPAddrs; the client of plasmd calls HTTP. A
// Node without Listen addresses can dial and fetch but cannot be dialled. It speaks TCP. QUIC is
// in package quic below; relays, hole punching and NAT probing are in package nat, for programs
// that need them.
//
// Limits: identify shows a peer all our addresses of its own network class, so a machine that
// must not be seen uses no Node at all. The DHT keeps its records in memory and loses them
// at a restart.
package p2p
