package diskformat

import (
	"bytes"
	"cmp"
	"context"
	"io"
)

// An Image is an open image of the form that Write makes.
type Image struct {
	Format *Format
	Size   int64 // of the disk in bytes
	ID     ID    // of the disk

	r    io.ReaderAt
	used []int64 // numbers of the blocks that the image has
	data int64   // offset of the first block
}

// Open reads an image of fileSize bytes and compares every byte of it with what Write makes of the
// same disk. name is the image's file name, which a VMDK repeats. Any difference is
// cas.ErrCorrupt.
func (f *Format) Open(ctx context.Context, r io.ReaderAt, fileSize int64, name string) (*Image, error) {
	size, used, err := f.find(r)
	if err != nil {
		return nil, err
	}
	if size <= 0 || size%mib != 0 || size > MaxSize {
		return nil, corrupt("a disk of %d bytes; phase-image writes whole MiB, up to %d GiB", size, int64(MaxSize>>30))
	}
	i := &Image{Format: f, Size: size, r: r, used: used, data: fileSize - int64(len(used))*f.block}
	d := &disk{name: name, size: size, block: f.block, used: used}
	if i.data < 0 || !ascending(used, d.blocks()) {
		return nil, notOurs("its table of blocks is damaged or out of order")
	}
	if d.id, err = i.identity(ctx); err != nil {
		return nil, err
	}
	want := f.tables(d)
	if int64(len(want)) != i.data {
		return nil, notOurs("it has %d bytes before its blocks, want %d", i.data, len(want))
	}
	have := make([]byte, len(want))
	if err := readAll(r, have, 0); err != nil {
		return nil, err
	}
	if !bytes.Equal(have, want) {
		if f == VMDK {
			if other := vmdkName(have); other != "" && other != name {
				return nil, corrupt("its descriptor names the file %.80q; give it that name again", other)
			}
		}
		return nil, notOurs("its header or tables differ, first at byte %d", firstDifference(have, want))
	}
	i.ID = d.id
	return i, nil
}

// notOurs is the error of an image that Write did not make.
func notOurs(format string, args ...any) error {
	return corrupt(format+"; perhaps a machine has used it or another program wrote it; convert it with qemu-img convert -O raw, and verify that", args...)
}

func ascending(list []int64, limit int64) bool {
	before := int64(-1)
	for _, n := range list {
		if n <= before {
			return false
		}
		before = n
	}
	return before < limit
}

func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

// identity hashes the blocks. A block of zeros is an error, because Write leaves it out.
func (i *Image) identity(ctx context.Context) (ID, error) {
	h := newIdentity(i.Size)
	err := i.forEach(ctx, func(n int64, block []byte) error {
		if allZero(block) {
			return notOurs("it has a block of zeros")
		}
		h.add(n, block)
		return nil
	})
	return h.sum(), err
}

// forEach calls visit for each block that the image has, in order.
func (i *Image) forEach(ctx context.Context, visit func(n int64, block []byte) error) error {
	buf := make([]byte, i.Format.block)
	for k, n := range i.used {
		err := cmp.Or(ctx.Err(), readAll(i.r, buf, i.data+int64(k)*i.Format.block))
		if err == nil {
			err = visit(n, buf)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// A Target is a file that gets a raw disk.
type Target interface {
	io.WriterAt
	Truncate(size int64) error
}

// Extract writes the raw disk to out, which must be empty. Blocks of zeros become holes.
func (i *Image) Extract(ctx context.Context, out Target) error {
	if err := out.Truncate(i.Size); err != nil {
		return err
	}
	return i.forEach(ctx, func(n int64, block []byte) error {
		at := n * i.Format.block
		end := min(i.Format.block, i.Size-at)
		if !allZero(block[end:]) {
			return notOurs("it has bytes after the end of the disk")
		}
		return writeSparse(out, block[:end], at)
	})
}
