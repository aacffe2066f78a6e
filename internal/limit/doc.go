// Package limit keeps strangers from taking all of an HTTP server. Rates bounds how
// fast bodies leave, in all and to one asker, and cuts off who takes them too slowly;
// Conns bounds how many connections are open, in all and from one address. OnceAnHour bounds
// what their requests write to a log.
//
// Rates and Conns work on plain connections and on libp2p streams alike: an asker is its IPv4
// address or the /56 of its IPv6 address, however many peer IDs are there. Neither looks
// at what is served. Whoever mounts a handler calls Rates.Handler, and Conns.Guard and Conns.Listener
// on the server.
package limit
