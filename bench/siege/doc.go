// Command siege measures a publisher under attack:
//
//	go run ./bench/siege -publish bin/phase-publish [-conns 2000] [-for 10s] [-only NAME]
//
// It publishes a release and starts phase-publish serve on loopback as a process of its own.
// For each kind of attack, -conns bad connections run at once from addresses of 127.0.0.0/8,
// 125 from each, while a good client fetches and verifies an artifact in a loop. A line of
// the table has the good client's rate (MB/s), the time until it got one block, and the
// publisher's peak memory.
//
// The model: an attacker has many addresses and open connections, but no more bandwidth than
// loopback and the processor give it, and the publisher runs on the same cores. So the rates
// show whether a good client still gets service, not what a network would carry.
//
// The test runs all attacks with 100 connections for 0.5 s each. It asserts that the good
// client gets the whole artifact, and that the publisher stays below 512 MiB: with 2,000
// connections it took at most 159 MB, and 390 MB without upload slots (docs/RATIONALE.md).
//
// Start at main; attacks.go has the bad clients, good.go the good client, which is a process
// of its own, and rig.go the publisher. All traffic stays on loopback; every loop ends with
// its context.
package main
