// Package bootfile recognises the files of a release by their headers: a kernel, an
// initramfs, a root file system, a WASM module. It answers whether a machine can use a
// file before anybody signs it and, for the kernel, before the jump into it.
//
// Start at [CheckKernel]. A check reads a few KiB through an io.ReaderAt, never the whole
// file, allocates nothing that a header asks for, and needs no other package. It proves
// that a file is of the right kind and not cut short, not that it works.
//
// Every refusal is an [*Error] with words for a person. It wraps [ErrTruncated] when the
// file ends before its header says, and fs.ErrInvalid when it is another kind of file.
package bootfile
