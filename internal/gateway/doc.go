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
// proxying to other gateways. The Handler checks the hash of what it sends: of a block each
// time, of a leaf in a run before it goes out of the store's files for the first time, and
// again half an hour to an hour later. A leaf that rots on the disk in between can be sent; the
// asker, which checks every block, then takes the Handler for a liar. The Client believes nothing
// that it is told: it reads at most one block and a byte, sizes no buffer from a
// header and abandons a body that stalls or trickles. What it returns is not
// verified: read it through cas.Get.
//
// # Errors of a Client
//
// A client of a mirror meets caches, filters, login pages and maintenance. Only bytes that
// prove a lie in the form that was asked for are [cas.ErrCorrupt], which bans a source.
// "away" is [cas.ErrUnreachable] (the server is no block server now, and may be asked again
// later), "absent" is [fs.ErrNotExist], "busy" is a [BusyError] (which is also away) and
// "single" is [ErrNoRuns]: ask for single blocks.
//
//	answer                                         block    record   run     have
//	connection lost, stalled, cut short            away     away     away    away
//	200, the bytes are wrong                       corrupt  away[1]  corrupt corrupt
//	200, too long or, of a block, empty            corrupt  away     single  corrupt
//	200, a web page, JSON, a text that says so     away     away     single  away
//	200, another form of the CID, or compressed    away[2]  away[2]  single  away
//	404, 410                                       absent   absent   absent  absent
//	429, 503                                       busy     busy     busy    busy
//	400, 403, 405, 406, 501                        away[3]  away[3]  single  away
//	any other status                               away     away     single  away
//	a redirect that is not followed                away     away     away    away
//
// [1] A record is no record when it is no protobuf message of the right fields. One of
// another name, or wrongly signed, is returned: who asked verifies it, and refuses it.
// [2] After it was asked for in other words: without a query, then with a slash behind the
// path, which is another entry in a cache that ignores queries.
// [3] After it was asked for without the query.
//
// # Redirects
//
// A client with Redirects follows five, to any host: content is named by its hash. None leads
// from https to http, to another scheme, or from a server on the internet into a private
// network. Credentials of the URL go only to the same server, also when it moves from http to
// https, and there is no Referer. Without Redirects, which is for gateways that strangers
// named, only those to the same origin are followed.
//
// Deadlines for slow askers belong to the http.Server that mounts the Handler.
package gateway
