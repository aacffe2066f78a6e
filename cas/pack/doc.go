// Package pack is the block store on disk: a folder of packs, each of them a CARv1 file that
// only grows, with a sorted index next to it and one merged index over most packs.
//
// It owns every file of that folder: how packs are written, synced and indexed, how a writer
// recovers them after a crash, how blocks are removed (Collect), checked (Fsck) and repaired
// (Repair, Rewrite). It does not decide which blocks are needed: the caller does. It refuses
// to open anything but regular files, because the folder may be on a cache partition that
// another system wrote.
//
// publisher and bootclient call it; both use the same format. Start at Open and Store, then
// Store.Put in write.go and Store.search in store.go; recover.go is what happens after a
// crash. A block is read through cas.Get or cas.Append, which check its hash.
//
// One process writes at a time, and holds a lock; any number of processes read. Data is
// synced before it is indexed, and indexed before Sync returns.
//
// Limits: 32768 packs in a folder, 1 TiB and 2^18 blocks in a pack that is written, 2^20
// blocks in a pack that is read, 128 open files.
package pack
