// Command net measures the delivery of releases, and programs that do the same work: nginx
// and curl, BitTorrent (aria2c). `make bench-net` installs them and runs it. Our publishers
// and boot clients are the real commands.
//
// The model: each host is a network namespace with one veth port on a bridge. A host has no
// limit but the processor, except for the publisher of experiment 2, whose port tc limits to
// -rate (100 Mbit/s) in both directions. There is no added delay or loss, except in experiment 8,
// whose two hosts are joined by a line with a round trip (wan.go). All hosts share the
// cores of this machine, so a ratio between rows of one table counts, not a figure alone.
// Rows alternate on the same topology. Experiment 4 is different: its DHT nodes are real
// nodes in one process, connected in memory (memorynet.go).
//
// Start at main: its table lists the experiments, each with its file. The command runs
// itself again in new mount, network and process namespaces, so that its bridges, processes
// and mounts end with it. Inside, "net hostile" is a bad peer and "net tracker" a BitTorrent
// tracker. There are no thresholds: docs/SCALE.md and docs/RATIONALE.md quote the output.
package main
