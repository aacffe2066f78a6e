package cas

import (
	"hash"

	mh "github.com/multiformats/go-multihash"
	core "github.com/multiformats/go-multihash/core"
	"github.com/zeebo/blake3"
)

// init replaces go-multihash's BLAKE3 by zeebo/blake3, so that the process has one
// implementation. The golden CIDs of the tests prove that both give the same hashes.
func init() {
	core.Register(mh.BLAKE3, func() hash.Hash { return blake3.New() })
}
