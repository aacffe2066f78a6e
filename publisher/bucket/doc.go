// Package bucket is the block store in an S3-compatible object store, and the access to the
// objects of one bucket.
//
// It owns every object below PREFIX/packs/ and the object PREFIX/lease. A pack is a CARv1 file,
// as in cas/pack, and never changes; its name is unique. The object packs/NAME.idx is its sorted
// index, which is written after the pack: a pack without an index does not belong to the store. A
// block is read by a ranged GET and hashed, so that an error names the object with the wrong bytes.
//
// One writer at a time holds the lease, by a conditional PUT. Collect never removes a pack at
// once: it writes what is kept into new packs, marks the old one with packs/NAME.gone, and a later
// Collect removes it after the grace. A pack that is marked is read, but no block is found to be
// stored because it is in one.
//
// publisher/store calls it where a store is named s3://BUCKET/PREFIX. Start at Open and Store, then
// Store.PutNew in write.go, Store.Block in store.go, Store.Refresh in packs.go, and Store.Collect in
// collect.go. It decides no trust and does not know which blocks are needed.
//
// Limits: 2^15 packs of at most 1 GiB, 2^24 blocks; twice as many while gc replaces some. The index is in memory, 60
// bytes a block.
package bucket
