package bucket

import (
	"bytes"

	"github.com/zeebo/blake3"
)

// fixSum corrects the checksum of an index, so that the index is parsed.
func fixSum(data []byte) []byte {
	if len(data) < indexSum {
		return data
	}
	sum := blake3.Sum256(data[:len(data)-indexSum])
	return append(bytes.Clone(data[:len(data)-indexSum]), sum[:]...)
}
