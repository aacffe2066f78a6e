// Package limit bounds what the clients of an HTTP server can take. [Rates] bounds how fast
// bodies are sent, in all and to one client, and ends an answer that its client reads too
// slowly. [Conns] bounds how many connections are open, in all and from one address.
// [OnceAnHour] bounds how many lines their requests add to a log. [Faults] bounds how many
// requests that are refused one client may send.
//
// A client is an IPv4 address or the /56 of an IPv6 address ([ClientKey]), whatever peer IDs
// it uses: the limits hold for plain connections and libp2p streams together. The package does
// not look at what is served.
//
// The publisher and a machine that serves wrap their handler with Rates.Handler, make their
// server with Conns.Server and their listener with Conns.Listener. Start at Rates.Handler.
//
// Limits: at most 4096 idle clients and 1024 logged errors are remembered.
package limit
