package bootfile

import (
	"bytes"
	"unicode/utf8"
)

// headSize is how many bytes of a file are read to identify it. All magic numbers are in them.
const headSize = 4096

// A Kind is the kind of a file by its magic number, as text for messages.
type Kind string

// Kinds that checks distinguish. Other kinds have only a text.
const (
	KindBzImage  Kind = "an x86 kernel (bzImage)"
	KindArm64    Kind = "an arm64 kernel (Image)"
	KindZboot    Kind = "a compressed EFI kernel (zboot)"
	KindCpio     Kind = "an initramfs (cpio archive)"
	KindGzip     Kind = "a gzip file"
	KindXZ       Kind = "an xz file"
	KindZstd     Kind = "a zstd file"
	KindLZ4      Kind = "an lz4 file"
	KindLZO      Kind = "an lzo file"
	KindBzip2    Kind = "a bzip2 file"
	KindLZMA     Kind = "an lzma file"
	KindSquashFS Kind = "a squashfs file system"
	KindEROFS    Kind = "an EROFS file system"
	KindExt      Kind = "an ext2, ext3 or ext4 file system"
	KindWASM     Kind = "a WebAssembly file"
	KindDTB      Kind = "a device tree"
	KindText     Kind = "a text file"
	KindEmpty    Kind = "an empty file"
	KindUnknown  Kind = "a file of an unknown kind"
)

// A magic is a magic number: bytes at a fixed offset of a file.
type magic struct {
	at   int
	text string
	kind Kind
}

// magics is searched from the top: more specific entries come first.
var magics = []magic{
	{0x202, "HdrS", KindBzImage},
	{56, "ARM\x64", KindArm64},
	{4, "zimg", KindZboot},
	{0, "MZ", "an EFI or Windows program"},
	{0, "\x7fELF", "an ELF program (a vmlinux is not a bzImage)"},
	{0, "070701", KindCpio},
	{0, "070702", KindCpio},
	{0, "070707", "a cpio archive of the old format (odc)"},
	{0, "\x1f\x8b", KindGzip},
	{0, "\xfd7zXZ\x00", KindXZ},
	{0, "\x28\xb5\x2f\xfd", KindZstd},
	{0, "\x02\x21\x4c\x18", KindLZ4},
	{0, "\x04\x22\x4d\x18", "an lz4 frame file"},
	{0, "\x89LZO\x00", KindLZO},
	{0, "BZh", KindBzip2},
	{0, "\x5d\x00\x00", KindLZMA},
	{0, "hsqs", KindSquashFS},
	{0, "sqsh", "a big-endian squashfs file system"},
	{1024, "\xe2\xe1\xf5\xe0", KindEROFS},
	{1080, "\x53\xef", KindExt},
	{0, "XFSB", "an XFS file system"},
	{0, "\x00asm", KindWASM},
	{0, "\xd0\x0d\xfe\xed", KindDTB},
	{257, "ustar", "a tar archive"},
	{0, "!<arch>\n", "a Debian package or static library"},
	{0, "PK\x03\x04", "a zip archive"},
	{510, "\x55\xaa", "a disk image"},
}

// identify returns the kind of a file by its first headSize bytes.
func identify(data []byte) Kind {
	for _, m := range magics {
		if len(data) > m.at && bytes.HasPrefix(data[m.at:], []byte(m.text)) {
			return m.kind
		}
	}
	switch {
	case len(data) == 0:
		return KindEmpty
	case isText(data):
		return KindText
	}
	return KindUnknown
}

// isText reports whether the bytes are UTF-8 without control characters. The last character may be
// incomplete, because only the head of the file was read.
func isText(data []byte) bool {
	for len(data) > 0 {
		r, n := utf8.DecodeRune(data)
		if r == utf8.RuneError && n == 1 {
			return len(data) < utf8.UTFMax && !utf8.FullRune(data)
		}
		if r < ' ' && r != '\n' && r != '\r' && r != '\t' && r != '\f' {
			return false
		}
		data = data[n:]
	}
	return true
}
