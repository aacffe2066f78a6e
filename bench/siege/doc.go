// Command siege measures what strangers can do to a publisher:
//
//	go run ./bench/siege -publish bin/phase-publish [-conns 2000] [-for 10s] [-only NAME]
//
// It publishes a release, starts phase-publish serve on loopback as a process of its own
// and lets each kind of bad client at it, many connections at once, from many addresses
// of 127.0.0.0/8, while one good client fetches and verifies an artifact again and
// again. A line of its table says what the good client got (MB/s, time until one block
// is there) and the most memory that the publisher held.
//
// Start at main; attacks.go has the bad clients, good.go the good one, which is a process of
// its own, and rig.go the publisher.
// The test runs all of it with small numbers and asserts what must hold. All traffic stays
// on loopback, and every loop ends with its time.
package main
