// Command objects measures the store in an object store (publisher/bucket) beside plain copies of the
// same bytes: minio-go's FPutObject and FGetObject, with four parts at once. `make bench-objects` runs it. Nothing
// else calls it.
//
// Both use one real S3 server, versitygw with files in a folder, on loopback, in the same run; our
// runs and the plain ones alternate. It prints medians and ratios. The ratio counts: client and server
// share the machine. The bytes are random, as a squashfs is for every compressor. Start at main.
package main
