// Package peers finds sources of blocks and pointers, and keeps what is known of each: mirrors,
// named peers, and the peers that mDNS and the DHT announce.
//
// Start at [Discover]. A [Set] has the [Source]s, a Source its endpoints, counters, pauses and
// its ban ([Source.RecordError] bans the sender of a wrong block). runs.go requests many leaves at
// once. Announced peers are candidates until they answer (candidates.go). A [Pool] reads one block from
// whichever source sends it first (hedged requests); [Pool.WithPatience] retries it until the patience is
// over. [Discovery.Settled] is the rule of docs/PATIENCE.md.
//
// Every byte that it returns from a source is verified by cas.Get, or marked as unverified. It
// does not choose a release and does not plan a fetch. Run, resolve, fetch and seed call it.
//
// Limits: 16,384 candidates, of which 256 become sources, 64 at one IP address.
package peers
