package plasm

import (
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	sysfs "github.com/tetratelabs/wazero/experimental/sys"
	"github.com/tetratelabs/wazero/sys"
)

// Limits of a folder.
const (
	maxNodes    = 16 << 10 // files and folders in a scratch folder
	maxFileName = 255      // bytes
	fileBytes   = 1 << 40  // largest offset in a file; only written blocks need space
)

// A folder is a file system in memory: the scratch folder, or the read-only artifacts of a release. Its
// inode numbers, times and order of entries depend only on what the job does. Links are not supported.
// One thread uses it.
type folder struct {
	sysfs.UnimplementedFS
	root     *node
	arena    *arena
	free     int // nodes that may still be made
	lastIno  uint64
	now      func() int64
	readOnly bool
	full     bool // a job needed more space than there is
}

// A node is a file or a folder.
type node struct {
	ino     uint64
	mode    fs.FileMode
	entries map[string]*node // of a folder; nil for a file
	blocks  map[int64]int32  // of a file: block number in the file → block of the arena; missing ones have zeros
	content io.ReaderAt      // of a read-only file, in place of blocks
	size    int64
	mtim    int64
	atim    int64
	linked  bool // has a name
	opened  int  // open files
}

// newScratch returns an empty folder of size bytes.
func newScratch(size int64, now func() int64) (*folder, error) {
	a, err := newArena(size)
	if err != nil {
		return nil, err
	}
	f := &folder{arena: a, now: now, free: min(maxNodes, int(size/blockSize)) + 1}
	f.root, _ = f.make(fs.ModeDir | 0o755)
	return f, nil
}

// newArtifacts returns a read-only folder with the files of artifacts by role.
func newArtifacts(files map[string]*os.File, now func() int64) (*folder, error) {
	f := &folder{arena: new(arena), now: now, free: maxNodes}
	f.root, _ = f.make(fs.ModeDir | 0o555)
	for _, role := range slices.Sorted(maps.Keys(files)) {
		info, err := files[role].Stat()
		if err != nil {
			return nil, err
		}
		at := f.root
		dir, base := path.Split(role)
		for _, name := range strings.FieldsFunc(dir, isSlash) {
			if at.entries[name] == nil {
				at.entries[name], _ = f.make(fs.ModeDir | 0o555)
			}
			at = at.entries[name]
		}
		file, _ := f.make(0o444)
		file.content, file.size = files[role], info.Size()
		at.entries[base] = file
	}
	f.readOnly = true
	return f, nil
}

func isSlash(r rune) bool { return r == '/' }

// make returns a new node, or false if there are too many.
func (f *folder) make(mode fs.FileMode) (*node, bool) {
	if f.free == 0 {
		f.full = true
		return nil, false
	}
	f.free--
	f.lastIno++
	now := f.now()
	n := &node{ino: f.lastIno, mode: mode, mtim: now, atim: now, linked: true}
	if mode.IsDir() {
		n.entries = map[string]*node{}
	} else {
		n.blocks = map[int64]int32{}
	}
	return n, true
}

// find returns the folder that contains a path, and the last name of the path: "." for the root.
func (f *folder) find(name string) (parent *node, base string, errno sysfs.Errno) {
	parts := []string{}
	for _, part := range strings.FieldsFunc(name, isSlash) {
		switch {
		case part == "..":
			parts = parts[:max(0, len(parts)-1)]
		case len(part) > maxFileName:
			return nil, "", sysfs.ENAMETOOLONG
		case part != ".":
			parts = append(parts, part)
		}
	}
	if len(parts) == 0 {
		return f.root, ".", 0
	}
	at := f.root
	for _, part := range parts[:len(parts)-1] {
		next := at.entries[part]
		if next == nil {
			return nil, "", sysfs.ENOENT
		}
		if !next.mode.IsDir() {
			return nil, "", sysfs.ENOTDIR
		}
		at = next
	}
	return at, parts[len(parts)-1], 0
}

// lookup returns the node of a path, nil if only its last name is missing.
func (f *folder) lookup(name string) (n, parent *node, base string, errno sysfs.Errno) {
	parent, base, errno = f.find(name)
	if errno != 0 {
		return nil, nil, "", errno
	}
	if base == "." {
		return parent, parent, base, 0
	}
	n = parent.entries[base]
	if n != nil && !n.mode.IsDir() && strings.HasSuffix(name, "/") {
		return nil, nil, "", sysfs.ENOTDIR
	}
	return n, parent, base, 0
}

func (f *folder) existing(name string) (*node, sysfs.Errno) {
	n, _, _, errno := f.lookup(name)
	if errno == 0 && n == nil {
		errno = sysfs.ENOENT
	}
	return n, errno
}

// OpenFile implements sys.FS.
func (f *folder) OpenFile(name string, flag sysfs.Oflag, perm fs.FileMode) (sysfs.File, sysfs.Errno) {
	n, parent, base, errno := f.lookup(name)
	writes := flag&(sysfs.O_RDWR|sysfs.O_WRONLY) != 0
	switch {
	case errno != 0:
		return nil, errno
	case f.readOnly && (writes || flag&(sysfs.O_CREAT|sysfs.O_TRUNC) != 0):
		return nil, sysfs.EROFS
	case n == nil && (flag&sysfs.O_CREAT == 0 || strings.HasSuffix(name, "/")):
		return nil, sysfs.ENOENT
	case n == nil:
		made, ok := f.make(perm & fs.ModePerm)
		if !ok {
			return nil, sysfs.EIO
		}
		n = made
		parent.entries[base] = n
		parent.mtim = f.now()
	case flag&sysfs.O_CREAT != 0 && flag&sysfs.O_EXCL != 0:
		return nil, sysfs.EEXIST
	case n.mode.IsDir() && writes:
		return nil, sysfs.EISDIR
	case !n.mode.IsDir() && flag&sysfs.O_DIRECTORY != 0:
		return nil, sysfs.ENOTDIR
	}
	if flag&sysfs.O_TRUNC != 0 && !n.mode.IsDir() {
		f.truncate(n, 0)
	}
	n.opened++
	return &openFile{folder: f, node: n, flag: flag}, 0
}

// Stat and Lstat implement sys.FS.
func (f *folder) Stat(name string) (sys.Stat_t, sysfs.Errno) {
	n, errno := f.existing(name)
	if errno != 0 {
		return sys.Stat_t{}, errno
	}
	return n.stat(), 0
}

func (f *folder) Lstat(name string) (sys.Stat_t, sysfs.Errno) { return f.Stat(name) }

// Readlink implements sys.FS: no file is a link.
func (f *folder) Readlink(name string) (string, sysfs.Errno) {
	if _, errno := f.existing(name); errno != 0 {
		return "", errno
	}
	return "", sysfs.EINVAL
}

// Mkdir implements sys.FS.
func (f *folder) Mkdir(name string, perm fs.FileMode) sysfs.Errno {
	n, parent, base, errno := f.lookup(name)
	switch {
	case errno != 0:
		return errno
	case n != nil:
		return sysfs.EEXIST
	case f.readOnly:
		return sysfs.EROFS
	}
	n, ok := f.make(fs.ModeDir | perm&fs.ModePerm)
	if !ok {
		return sysfs.EIO
	}
	parent.entries[base] = n
	parent.mtim = f.now()
	return 0
}

// Chmod implements sys.FS. Permissions are kept and not enforced.
func (f *folder) Chmod(name string, perm fs.FileMode) sysfs.Errno {
	n, errno := f.existing(name)
	switch {
	case errno != 0:
		return errno
	case f.readOnly:
		return sysfs.EROFS
	}
	n.mode = n.mode&^fs.ModePerm | perm&fs.ModePerm
	return 0
}

// Utimens implements sys.FS.
func (f *folder) Utimens(name string, atim, mtim int64) sysfs.Errno {
	n, errno := f.existing(name)
	if errno != 0 {
		return errno
	}
	return f.utimens(n, atim, mtim)
}

func (f *folder) utimens(n *node, atim, mtim int64) sysfs.Errno {
	if f.readOnly {
		return sysfs.EROFS
	}
	if atim != sysfs.UTIME_OMIT {
		n.atim = atim
	}
	if mtim != sysfs.UTIME_OMIT {
		n.mtim = mtim
	}
	return 0
}

// Rmdir implements sys.FS.
func (f *folder) Rmdir(name string) sysfs.Errno {
	n, parent, base, errno := f.removable(name)
	switch {
	case errno != 0:
		return errno
	case !n.mode.IsDir():
		return sysfs.ENOTDIR
	case base == ".":
		return sysfs.EINVAL
	case len(n.entries) > 0:
		return sysfs.ENOTEMPTY
	}
	f.unlink(parent, base)
	return 0
}

// Unlink implements sys.FS. An open file keeps its content until it is closed.
func (f *folder) Unlink(name string) sysfs.Errno {
	n, parent, base, errno := f.removable(name)
	switch {
	case errno != 0:
		return errno
	case n.mode.IsDir():
		return sysfs.EISDIR
	}
	f.unlink(parent, base)
	return 0
}

// removable returns the node of a path that exists, for a change of its folder.
func (f *folder) removable(name string) (n, parent *node, base string, errno sysfs.Errno) {
	n, parent, base, errno = f.lookup(name)
	switch {
	case errno != 0:
	case n == nil:
		errno = sysfs.ENOENT
	case f.readOnly:
		errno = sysfs.EROFS
	}
	return n, parent, base, errno
}

func (f *folder) unlink(parent *node, base string) {
	n := parent.entries[base]
	delete(parent.entries, base)
	parent.mtim = f.now()
	n.linked = false
	f.release(n)
}

// release frees a node that has no name and is not open.
func (f *folder) release(n *node) {
	if n.linked || n.opened > 0 {
		return
	}
	for _, b := range n.blocks {
		f.arena.give(b)
	}
	n.blocks = nil
	f.free++
}

// Rename implements sys.FS.
func (f *folder) Rename(from, to string) sysfs.Errno {
	n, parent, base, errno := f.lookup(from)
	if errno != 0 {
		return errno
	}
	old, newParent, newBase, errno := f.lookup(to)
	switch {
	case errno != 0:
		return errno
	case n == nil:
		return sysfs.ENOENT
	case f.readOnly:
		return sysfs.EROFS
	case base == "." || newBase == "." || n.mode.IsDir() && n.contains(newParent):
		return sysfs.EINVAL
	case n == old:
		return 0
	case old != nil && n.mode.IsDir() && !old.mode.IsDir():
		return sysfs.ENOTDIR
	case old != nil && !n.mode.IsDir() && old.mode.IsDir():
		return sysfs.EISDIR
	case old != nil && len(old.entries) > 0:
		return sysfs.ENOTEMPTY
	}
	if old != nil {
		f.unlink(newParent, newBase)
	}
	delete(parent.entries, base)
	newParent.entries[newBase] = n
	parent.mtim, newParent.mtim = f.now(), f.now()
	return 0
}

// contains reports whether other is n or inside n.
func (n *node) contains(other *node) bool {
	pending := []*node{n}
	for len(pending) > 0 {
		at := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		if at == other {
			return true
		}
		for _, entry := range at.entries {
			if entry.mode.IsDir() {
				pending = append(pending, entry)
			}
		}
	}
	return false
}

func (n *node) stat() sys.Stat_t {
	return sys.Stat_t{Dev: 1, Ino: n.ino, Mode: n.mode, Nlink: 1, Size: n.size, Atim: n.atim, Mtim: n.mtim, Ctim: n.mtim}
}

// readAt reads from a file and returns 0 at its end.
func (f *folder) readAt(n *node, p []byte, off int64) (int, sysfs.Errno) {
	p = p[:min(int64(len(p)), max(0, n.size-off))]
	if n.content != nil {
		got, err := n.content.ReadAt(p, off)
		if err != nil && err != io.EOF {
			return got, sysfs.EIO
		}
		return got, 0
	}
	for at := 0; at < len(p); {
		index, within := (off+int64(at))/blockSize, (off+int64(at))%blockSize
		part := p[at:min(len(p), at+int(blockSize-within))]
		if b, ok := n.blocks[index]; ok {
			copy(part, f.arena.block(b)[within:])
		} else {
			clear(part)
		}
		at += len(part)
	}
	return len(p), 0
}

// writeAt writes until the folder is full.
func (f *folder) writeAt(n *node, p []byte, off int64) (int, sysfs.Errno) {
	if off > fileBytes-int64(len(p)) {
		return 0, sysfs.EINVAL
	}
	at := 0
	for at < len(p) {
		index, within := (off+int64(at))/blockSize, (off+int64(at))%blockSize
		b, ok := n.blocks[index]
		if !ok {
			if b, ok = f.arena.take(); !ok {
				f.full = true
				break
			}
			n.blocks[index] = b
		}
		at += copy(f.arena.block(b)[within:], p[at:])
	}
	if at > 0 {
		n.size = max(n.size, off+int64(at))
		n.mtim = f.now()
	}
	if at < len(p) {
		return at, sysfs.EIO
	}
	return at, 0
}

// truncate sets the size of a file. What is added has zeros.
func (f *folder) truncate(n *node, size int64) {
	for index, b := range n.blocks {
		switch from := index * blockSize; {
		case from >= size:
			f.arena.give(b)
			delete(n.blocks, index)
		case from+blockSize > size:
			clear(f.arena.block(b)[size-from:])
		}
	}
	n.size = size
	n.mtim = f.now()
}

func (f *folder) close() { f.arena.close() }
