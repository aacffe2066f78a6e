// Package kubo pins the stock IPFS node that the tests judge us by, in a module of its
// own, so that its dependencies never meet ours. It pins QUIC at the versions that its
// libp2p was made for.
package kubo
