package plasm

import (
	"io"
	"maps"
	"slices"

	sysfs "github.com/tetratelabs/wazero/experimental/sys"
	"github.com/tetratelabs/wazero/sys"
)

// An openFile is an open file or folder of a folder.
type openFile struct {
	folder *folder
	node   *node
	flag   sysfs.Oflag
	offset int64
	names  []string // of a folder: the names that Readdir returns next, in order
	listed bool     // names is set
	closed bool
}

// Dev implements sys.File.
func (o *openFile) Dev() (uint64, sysfs.Errno) { return 1, 0 }

// Ino implements sys.File.
func (o *openFile) Ino() (sys.Inode, sysfs.Errno) { return o.node.ino, 0 }

// IsDir implements sys.File.
func (o *openFile) IsDir() (bool, sysfs.Errno) { return o.node.mode.IsDir(), 0 }

// IsAppend implements sys.File.
func (o *openFile) IsAppend() bool { return o.flag&sysfs.O_APPEND != 0 }

// SetAppend implements sys.File.
func (o *openFile) SetAppend(enable bool) sysfs.Errno {
	o.flag &^= sysfs.O_APPEND
	if enable {
		o.flag |= sysfs.O_APPEND
	}
	return o.check()
}

// Stat implements sys.File.
func (o *openFile) Stat() (sys.Stat_t, sysfs.Errno) { return o.node.stat(), o.check() }

// check returns an error for a closed file.
func (o *openFile) check() sysfs.Errno {
	if o.closed {
		return sysfs.EBADF
	}
	return 0
}

// readable and writable return an error for a file that is not open for it.
func (o *openFile) readable() sysfs.Errno {
	switch {
	case o.closed || o.flag&sysfs.O_WRONLY != 0:
		return sysfs.EBADF
	case o.node.mode.IsDir():
		return sysfs.EISDIR
	}
	return 0
}

func (o *openFile) writable() sysfs.Errno {
	switch {
	case o.node.mode.IsDir():
		return sysfs.EISDIR
	case o.closed || o.flag&(sysfs.O_WRONLY|sysfs.O_RDWR) == 0:
		return sysfs.EBADF
	}
	return 0
}

// Read implements sys.File.
func (o *openFile) Read(p []byte) (int, sysfs.Errno) {
	n, errno := o.Pread(p, o.offset)
	o.offset += int64(n)
	return n, errno
}

// Pread implements sys.File.
func (o *openFile) Pread(p []byte, off int64) (int, sysfs.Errno) {
	if errno := o.readable(); errno != 0 {
		return 0, errno
	}
	if off < 0 {
		return 0, sysfs.EINVAL
	}
	return o.folder.readAt(o.node, p, off)
}

// Write implements sys.File.
func (o *openFile) Write(p []byte) (int, sysfs.Errno) {
	if o.IsAppend() {
		o.offset = o.node.size
	}
	n, errno := o.Pwrite(p, o.offset)
	o.offset += int64(n)
	return n, errno
}

// Pwrite implements sys.File.
func (o *openFile) Pwrite(p []byte, off int64) (int, sysfs.Errno) {
	if errno := o.writable(); errno != 0 {
		return 0, errno
	}
	if off < 0 {
		return 0, sysfs.EINVAL
	}
	return o.folder.writeAt(o.node, p, off)
}

// Truncate implements sys.File.
func (o *openFile) Truncate(size int64) sysfs.Errno {
	if errno := o.writable(); errno != 0 {
		return errno
	}
	if size < 0 || size > fileBytes {
		return sysfs.EINVAL
	}
	o.folder.truncate(o.node, size)
	return 0
}

// position is the type of an offset in Seek. With int64, go vet takes Seek for a wrong io.Seeker.
type position = int64

// Seek implements sys.File. Of a folder, it returns to the first entry.
func (o *openFile) Seek(offset position, whence int) (int64, sysfs.Errno) {
	if errno := o.check(); errno != 0 {
		return 0, errno
	}
	if o.node.mode.IsDir() {
		if offset != 0 || whence != io.SeekStart {
			return 0, sysfs.EINVAL
		}
		o.listed = false
		return 0, 0
	}
	switch whence {
	case io.SeekCurrent:
		offset += o.offset
	case io.SeekEnd:
		offset += o.node.size
	case io.SeekStart:
	default:
		return 0, sysfs.EINVAL
	}
	if offset < 0 || offset > fileBytes {
		return 0, sysfs.EINVAL
	}
	o.offset = offset
	return offset, 0
}

// Readdir implements sys.File. Entries are sorted by name.
func (o *openFile) Readdir(n int) ([]sysfs.Dirent, sysfs.Errno) {
	if o.closed || !o.node.mode.IsDir() {
		return nil, sysfs.EBADF
	}
	if !o.listed {
		o.names, o.listed = slices.Sorted(maps.Keys(o.node.entries)), true
	}
	if n <= 0 {
		n = len(o.names)
	}
	entries := []sysfs.Dirent{}
	for len(entries) < n && len(o.names) > 0 {
		name := o.names[0]
		o.names = o.names[1:]
		if entry := o.node.entries[name]; entry != nil {
			entries = append(entries, sysfs.Dirent{Ino: entry.ino, Name: name, Type: entry.mode.Type()})
		}
	}
	return entries, 0
}

// Sync implements sys.File: memory needs none.
func (o *openFile) Sync() sysfs.Errno { return o.check() }

// Datasync implements sys.File.
func (o *openFile) Datasync() sysfs.Errno { return o.check() }

// Utimens implements sys.File.
func (o *openFile) Utimens(atim, mtim int64) sysfs.Errno {
	if errno := o.check(); errno != 0 {
		return errno
	}
	return o.folder.utimens(o.node, atim, mtim)
}

// Close implements sys.File.
func (o *openFile) Close() sysfs.Errno {
	if !o.closed {
		o.closed = true
		o.node.opened--
		o.folder.release(o.node)
	}
	return 0
}
