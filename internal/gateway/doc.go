// Package gateway moves blocks over HTTP as an IPFS trustless gateway
// (https://specs.ipfs.tech/http-gateways/trustless-gateway/): [Handler] serves a
// cas.Source, [Client] is a cas.Source that reads from a gateway. A publisher, a peer
// reached over libp2p streams and a folder of files on any web server have the same paths:
//
//	GET /ipfs/CID?format=raw                              one block
//	GET /ipfs/CID[/PATH]?format=car&dag-scope=…           a CAR of block, entity or all
//	        &entity-bytes=FROM:TO                         the blocks of a range of a file
//	GET /ipns/NAME?format=ipns-record                     a signed IPNS record
//	GET /have/ROOT                                        which leaves of an artifact are here
//	GET /tuf/metadata/NAME, /tuf/targets/PATH             files for clients of TUF
//
// /have/ is an extension, which only machines that boot or seed serve: see Options.Have. Only a
// publisher serves /tuf/ (tuf.go), the one place where files are reassembled.
//
// The Handler renders no pages and does not forward requests to other gateways. The publisher and a serving machine mount it behind limit.Rates, which sets the
// deadlines for slow clients. Start at Handler and Client.Block; a run of leaves starts at
// carWriter.run and Client.Run.
//
// # What the Handler checks
//
// Every block is hashed each time it is sent, with one exception: the leaves of a run that are
// sent from a file of the store. Such a leaf is hashed before it is sent for the first time, and
// again if the last time was more than 30 minutes ago; in between only its CID in the file is
// compared. So a leaf that is damaged on the disk can be sent for up to 30 minutes. The receiver,
// which checks every block, then bans the server.
//
// # What the Client returns
//
// The Client returns blocks that are not verified: read it through cas.Get. Only Run checks each
// leaf. It reads at most one byte more than a block, sizes no buffer by a header, and abandons a
// response that stalls or is slow.
//
// Caches, filters, login pages and maintenance are normal for the client of a mirror. Only bytes
// that are wrong in the format that was requested are [cas.ErrCorrupt], which bans a source.
// "unreachable" is [cas.ErrUnreachable] (the server does not serve blocks now, and may be asked again
// later), "missing" is [fs.ErrNotExist], "busy" is a [BusyError] (which is also unreachable) and
// "no runs" is [ErrNoRuns]: request single blocks.
//
// [Client.Range] requests a run of leaves from a static web server, as a range of the whole file below
// /tuf/targets/. Its errors are those of a run with ErrNoRanges in place of ErrNoRuns, and for a missing
// file too; any 5xx status is unreachable. Only wrong bytes in a range that is labelled as the requested one are corrupt.
//
//	response                                        block          record         run            have
//	connection lost, stalled, cut short             unreachable    unreachable    unreachable    unreachable
//	200, the bytes are wrong                        corrupt        unreachable[1] corrupt        corrupt
//	200, too long or, of a block, empty             corrupt        unreachable    no runs        corrupt
//	200, a web page, JSON, a text labelled so       unreachable    unreachable    no runs        unreachable
//	200, another format of the CID, or compressed   unreachable[2] unreachable[2] no runs        unreachable
//	404, 410                                        missing        missing        missing        missing
//	429, 503                                        busy           busy           busy           busy
//	400, 403, 405, 406, 501                         unreachable[3] unreachable[3] no runs        unreachable
//	any other status                                unreachable    unreachable    no runs        unreachable
//	a redirect that is not followed                 unreachable    unreachable    unreachable    unreachable
//
// [1] Bytes that are not a protobuf message with the fields of a record. A record of another
// name, or with a wrong signature, is returned: the caller verifies and refuses it.
// [2] After other URLs were tried: without a query, then with a slash after the path, which is
// another entry in a cache that ignores queries.
// [3] After the URL without the query was tried.
//
// # Redirects
//
// A client with Redirects follows five, to any host, as content is named by its hash. It follows
// none from https to http, to another scheme, from a server on the internet into a private
// network, or to an onion service from a server that is none. It sends the credentials of the
// URL only to the same server, also if that moves from http to https, and sends no Referer.
// Without Redirects, which is for gateways found on the network, it follows only redirects to
// the same origin.
package gateway
