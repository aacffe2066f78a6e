// Package p2p is the peer-to-peer side of publishers and booting machines: one
// libp2p host with a Kademlia DHT, mDNS on the local network, the trustless
// gateway over streams, and IPNS records.
//
// It decides nothing about trust. A peer, an address, a provider record is a hint
// from a stranger; an IPNS record is a signed pointer whose target must still pass
// manifest.Verify. What it refuses: names that an mDNS packet gives for addresses beyond
// the networks this machine is directly on, more than maxFound peers from mDNS, more
// connections, streams and promised memory than limits.go has numbers for, and a routing
// table full of one network.
//
// Start at New. The publisher calls Serve, Provide and PutIPNS; the boot client
// calls Found, FindProviders, GetIPNS, Gateway and HTTPAddrs. A Node with no
// Listen addresses can dial and fetch but not be dialled. It speaks TCP; QUIC is in
// package quic below, relays, hole punching and NAT probing in package nat, for those
// who want them.
//
// Limits: identify shows a peer all our addresses that fit its own network class,
// so a machine that must not be seen uses no Node at all; the DHT keeps its records
// in memory and asks for them again after a restart.
package p2p
