package machine

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// The kernel unpacks the newc format: a header of 110 ASCII bytes, the name with a final NUL
// padded to 4 bytes, the data padded to 4 bytes. See
// Documentation/driver-api/early-userspace/buffer-format.rst in the kernel.
const (
	cpioHeader  = 110
	cpioTrailer = "TRAILER!!!"
	cpioMax     = 1<<32 - 1 // sizes are 8 hex digits

	modeDir  = 0o040000
	modeFile = 0o100000
)

// A cpioEntry is the header of a file or folder in an archive. Its data may be written later.
type cpioEntry struct {
	name string // path without a leading slash
	mode uint32 // type and permission bits
	size int64  // bytes of data
}

func align4(n int64) int64 { return (n + 3) &^ 3 }

// header returns the entry's header and padded name.
func (e cpioEntry) header(inode int) []byte {
	links := 1
	if e.mode&modeDir == modeDir {
		links = 2
	}
	b := fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		inode, e.mode, 0, 0, links, 0, e.size, 0, 0, 0, 0, len(e.name)+1, 0, e.name)
	return append(b, make([]byte, align4(int64(len(b)))-int64(len(b)))...)
}

// dataOffset returns the offset of the data from the start of the header.
func (e cpioEntry) dataOffset() int64 { return align4(int64(cpioHeader + len(e.name) + 1)) }

// length returns the size of the entry in the archive, in bytes.
func (e cpioEntry) length() int64 { return e.dataOffset() + align4(e.size) }

// A cpioWriter writes the headers of entries one after another; their data can be filled in
// later in any order. Inodes count up, and times and owners are zero: the same entries give the
// same bytes.
type cpioWriter struct {
	w     io.WriterAt
	off   int64 // end of the archive so far, always a multiple of 4
	inode int
	dirs  []string
}

// add writes the headers of a file and of its folders, and returns the offset at which the data
// of the file belongs.
func (c *cpioWriter) add(e cpioEntry) (int64, error) {
	if e.size < 0 || e.size > cpioMax {
		return 0, fmt.Errorf("%s: %d bytes; a file in an initramfs archive must be smaller than 4 GiB", e.name, e.size)
	}
	if err := c.parents(e.name); err != nil {
		return 0, err
	}
	return c.put(e)
}

// parents writes the headers of the folders of a file that have none yet.
func (c *cpioWriter) parents(name string) error {
	dir := path.Dir(name)
	if dir == "." || slices.Contains(c.dirs, dir) {
		return nil
	}
	if err := c.parents(dir); err != nil {
		return err
	}
	c.dirs = append(c.dirs, dir)
	_, err := c.put(cpioEntry{name: dir, mode: modeDir | 0o755})
	return err
}

// put writes one header and returns the offset of its data.
func (c *cpioWriter) put(e cpioEntry) (int64, error) {
	c.inode++
	if _, err := c.w.WriteAt(e.header(c.inode), c.off); err != nil {
		return 0, err
	}
	data := c.off + e.dataOffset()
	c.off += e.length()
	return data, nil
}

// file adds a file with its data.
func (c *cpioWriter) file(name string, perm uint32, data []byte) error {
	off, err := c.add(cpioEntry{name: name, mode: modeFile | perm, size: int64(len(data))})
	if err != nil {
		return err
	}
	_, err = c.w.WriteAt(data, off)
	return err
}

// close writes the trailer and returns the offset of the end of the archive.
func (c *cpioWriter) close() (int64, error) {
	_, err := c.put(cpioEntry{name: cpioTrailer})
	return c.off, err
}

// archiveName returns the path of an artifact in the archive, "" for an artifact that is not in
// the archive.
func archiveName(role string) string {
	switch {
	case role == "rootfs":
		return "phase/rootfs.squashfs"
	case strings.HasPrefix(role, "job/"):
		return "phase/" + role
	}
	return ""
}
