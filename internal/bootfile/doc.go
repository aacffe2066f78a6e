// Package bootfile checks the files of a release by their headers: kernel, initramfs, root
// filesystem, device tree, WebAssembly module. signer calls it before a file is signed,
// bootclient/machine before the jump into a kernel, and cmd/plasmd before a job runs.
//
// Start at [CheckKernel]. A check reads a few KiB through an io.ReaderAt and allocates no memory by
// a number in a header. Only data compressed with gzip or zstd are read to their end. A check shows
// that a file is of the right kind and complete; it does not show that the file works.
//
// Every refusal is an [*Error] with cause and remedy. It wraps [ErrTruncated] if the file ends
// before its header says, and fs.ErrInvalid if the file is of another kind or cannot be used.
package bootfile
