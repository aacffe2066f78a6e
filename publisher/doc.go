// Package publisher is the daemon that serves releases: the trustless gateway over HTTP
// and over libp2p streams, Bitswap for stock IPFS nodes, mDNS, the DHT, the IPNS record, and
// a timestamp that is signed again before it expires.
//
// Start at Serve. watch.go follows the repository, source.go is what is served, announce.go
// announces in the DHT, replica.go serves without keys what another publisher has put into an
// object store, limits.go bounds what clients take, health.go lists the problems, and
// control.go answers operators. Bootstrap runs a DHT node alone.
//
// Its subpackages: repo reads and signs the repository, ingest adds a release, store opens and
// cares for the packs, bucket keeps them in an object store, mirror exports files for any web
// server, netboot serves EFI programs, reports keeps the boot reports of machines, admin is the
// page for operators. A publisher holds the online
// key (snapshot and timestamp) and the IPNS key, never a release key: it can withhold
// releases, not forge one.
//
// Called by cmd/phase-publish with keys that are loaded already. Limits: the blocks of the
// last three metadata folders stay in memory for machines that are still fetching.
package publisher
