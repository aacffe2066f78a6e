package fat32

import (
	"io"
	"io/fs"
)

// A File is an open file. It is readable until it is removed.
type File struct {
	v        *Volume
	clusters []uint32
	size     int64
}

// Size is the length in bytes.
func (f *File) Size() int64 { return f.size }

// Open opens a file. The error wraps fs.ErrNotExist if there is none.
func (v *Volume) Open(name string) (*File, error) {
	_, e, err := v.lookup(name)
	if err == nil && (e == nil || e.IsDir) {
		err = &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if err != nil {
		return nil, err
	}
	f := &File{v: v, size: e.Size}
	if e.first != 0 {
		f.clusters, err = v.chain(e.first, v.clusters)
	}
	if err == nil && int64(len(f.clusters))*v.cluster < f.size { // Open has compared them, but the device may lie
		err = layoutf("%.80q: fewer clusters than its %d bytes need", name, f.size)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// ReadAt implements io.ReaderAt. It reads adjacent clusters at once.
func (f *File) ReadAt(p []byte, at int64) (done int, err error) {
	for done < len(p) && at < f.size {
		i, in := at/f.v.cluster, at%f.v.cluster
		run := runLength(f.clusters[i:])
		n := min(int64(len(p)-done), run*f.v.cluster-in, f.size-at)
		m, err := f.v.dev.ReadAt(p[done:done+int(n)], f.v.offset(f.clusters[i])+in)
		if done, at = done+m, at+int64(m); int64(m) < n {
			return done, err
		}
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// runLength returns how many of the clusters follow each other on the disk.
func runLength(list []uint32) int64 {
	n := 1
	for n < len(list) && list[n] == list[n-1]+1 {
		n++
	}
	return int64(n)
}
