package bucket

import (
	"bytes"
	"context"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
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

// SetLimits sets the time of an attempt, and the number of objects in an answer.
func (b *Bucket) SetLimits(d time.Duration, page int) { b.limit, b.page = d, page }

// Most returns options with other limits.
func (o Options) Most(packs, blocks int) Options {
	o.most = count{packs, blocks}
	return o
}

// BeginUpload begins an upload in parts.
func (b *Bucket) BeginUpload(ctx context.Context, name string) error {
	_, err := b.core.NewMultipartUpload(ctx, b.Bucket, b.key(name), minio.PutObjectOptions{})
	return err
}

// Uploads returns the names of the objects whose uploads are not complete.
func (b *Bucket) Uploads(ctx context.Context) (names []string) {
	for u := range b.core.ListIncompleteUploads(ctx, b.Bucket, b.Prefix, true) {
		names = append(names, strings.TrimPrefix(u.Key, b.Prefix))
	}
	return names
}
