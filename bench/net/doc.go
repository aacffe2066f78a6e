// Command net measures delivery beside the tools that do the same work: real
// publishers, real boot clients and their peers, each a process in a network namespace
// of its own. `make bench-net` installs the peers and runs it.
//
// It runs itself again in new mount, network and process namespaces, so that whatever
// it makes, bridges, processes, mounts, ends with it, however it ends. Runs of ours and
// of a peer take turns on the same topology; the ratio counts, not the figure.
//
// It is several programs in one file: started as "net hostile" or "net
// tracker" it plays those parts inside a namespace.
package main
