// Package gateway moves blocks over HTTP as an IPFS trustless gateway
// (https://specs.ipfs.tech/http-gateways/trustless-gateway/): [Handler] serves a
// cas.Source, [Client] is a cas.Source that asks a gateway. The publisher, a
// peer reached over libp2p streams and a folder of files on any web server speak
// the same paths:
//
//	GET /ipfs/CID?format=raw                              one block
//	GET /ipfs/CID[/PATH]?format=car&dag-scope=…           a CAR of block, entity or all
//	        &entity-bytes=FROM:TO                         the blocks of a range of a file
//	GET /ipns/NAME?format=ipns-record                     a signed IPNS record
//	GET /have/ROOT                                        which leaves of an artifact are here
//
// The last is our own, and only machines that boot or seed answer it: see
// Options.Have.
//
// Nothing is ever interpreted for the asker: no pages, no reassembled files, no
// proxying to other gateways. The Handler reads each block through cas.Get, so
// it cannot serve a block that rotted in its store. The Client believes nothing
// that it is told: it reads at most one block and a byte, sizes no buffer from a
// header, follows no redirect to another host and abandons a body that stalls or
// trickles. What it returns is not verified: read it through cas.Get.
//
// Deadlines for slow askers belong to the http.Server that mounts the Handler.
package gateway
