package diskformat

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

const (
	kib    = 1 << 10
	mib    = 1 << 20
	sector = 512

	// MaxSize is the size of the largest disk in bytes. It bounds the tables: VMDK needs 8 MiB.
	MaxSize = 64 << 30
)

// A disk is what the tables of an image depend on.
type disk struct {
	name  string  // file name of the image; only VMDK contains it
	size  int64   // bytes
	block int64   // bytes
	used  []int64 // numbers of the blocks that are not zero, in ascending order
	id    ID
}

// An ID is a digest of a disk: of its size and of its blocks that are not zero.
type ID [32]byte

// GUID derives an identifier for a use: a UUID of version 8 (RFC 9562).
func (id ID) GUID(use string) string {
	g := id.guid(use)
	return fmt.Sprintf("%x-%x-%x-%x-%x", g[0:4], g[4:6], g[6:8], g[8:10], g[10:])
}

func (id ID) guid(use string) (g [16]byte) {
	h := sha256.Sum256(append(id[:], use...))
	h[6] = h[6]&0x0f | 0x80
	h[8] = h[8]&0x3f | 0x80
	return [16]byte(h[:16])
}

// blocks returns how many blocks the disk has, zeros included.
func (d *disk) blocks() int64 { return roundUp(d.size, d.block) / d.block }

// A Format is a form of disk image.
type Format struct {
	Name  string // "qcow2"
	block int64  // bytes that are stored or left out as a whole

	magic []byte
	// tables returns everything before the first block, in bytes.
	tables func(*disk) []byte
	// find reads the size of the disk and the numbers of its used blocks from an image. It may
	// return nonsense for an image that tables did not make.
	find func(r io.ReaderAt) (size int64, used []int64, err error)
}

// Formats lists all formats.
var Formats = []*Format{QCOW2, VMDK, VHDX, Parallels}

// Named returns the format of a name, or nil.
func Named(name string) *Format {
	for _, f := range Formats {
		if f.Name == name {
			return f
		}
	}
	return nil
}

// Detect returns the format of an image that begins with head, or nil.
func Detect(head []byte) *Format {
	for _, f := range Formats {
		if bytes.HasPrefix(head, f.magic) {
			return f
		}
	}
	return nil
}

// CheckSize refuses the size of a disk that a format cannot hold: it must be a whole number of
// MiB, and at most MaxSize. The error wraps fs.ErrInvalid.
func CheckSize(size int64) error {
	switch {
	case size%mib != 0:
		return refusal.Invalid("size %d bytes: the disk of a virtual machine has whole MiB; use --size %dM", size, (size+mib-1)/mib)
	case size > MaxSize:
		return refusal.Invalid("size %d GiB: too large; at most --size %dG", size>>30, int64(MaxSize>>30))
	}
	return nil
}

// Write writes the raw disk as an image to out, which must be empty. name is the file name that the
// image will have. Zeros become holes. The ID is that of the disk.
func (f *Format) Write(ctx context.Context, raw *os.File, size int64, name string, out *os.File) (ID, error) {
	if err := CheckSize(size); err != nil {
		return ID{}, err
	}
	if err := f.CheckName(name); err != nil {
		return ID{}, err
	}
	d, err := f.scan(ctx, raw, size, name)
	if err == nil {
		err = f.store(ctx, raw, d, out)
	}
	if err != nil {
		return ID{}, err
	}
	return d.id, nil
}

// store writes the tables and then the used blocks.
func (f *Format) store(ctx context.Context, raw io.ReaderAt, d *disk, out *os.File) error {
	tables := f.tables(d)
	at := int64(len(tables))
	if err := errors.Join(out.Truncate(at+int64(len(d.used))*f.block), writeSparse(out, tables, 0)); err != nil {
		return err
	}
	buf := make([]byte, f.block)
	for _, n := range d.used {
		if err := cmp.Or(ctx.Err(), readBlock(raw, d.size, n, buf)); err != nil {
			return err
		}
		if err := writeSparse(out, buf, at); err != nil {
			return err
		}
		at += f.block
	}
	return nil
}

// writeSparse writes b at an offset and skips zeros, which the file must have there.
func writeSparse(out io.WriterAt, b []byte, at int64) error {
	for len(b) > 0 {
		part := b[:min(len(b), 64*kib)]
		if !allZero(part) {
			if _, err := out.WriteAt(part, at); err != nil {
				return err
			}
		}
		b, at = b[len(part):], at+int64(len(part))
	}
	return nil
}

// scan finds the blocks of a raw disk that are not zero, and hashes them.
func (f *Format) scan(ctx context.Context, raw *os.File, size int64, name string) (*disk, error) {
	d := &disk{name: name, size: size, block: f.block}
	h := newIdentity(size)
	buf := make([]byte, f.block)
	for at := int64(0); at < size; {
		data, err := nextData(raw, at)
		if err != nil {
			return nil, err
		}
		n := data / f.block
		if at = (n + 1) * f.block; data >= size {
			break
		}
		if err := cmp.Or(ctx.Err(), readBlock(raw, size, n, buf)); err != nil {
			return nil, err
		}
		if !allZero(buf) {
			d.used = append(d.used, n)
			h.add(n, buf)
		}
	}
	d.id = h.sum()
	return d, nil
}

// nextData returns the offset of the first byte from at on that is not in a hole of the file.
func nextData(f *os.File, at int64) (int64, error) {
	data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // only a hole until the end
		return MaxSize + 1, nil
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP): // a file system without holes
		return at, nil
	}
	return data, err
}

// readBlock reads block n of a disk into buf. After the end of the disk it has zeros.
func readBlock(r io.ReaderAt, size, n int64, buf []byte) error {
	at := n * int64(len(buf))
	have := buf[:min(int64(len(buf)), size-at)]
	clear(buf[len(have):])
	return readAll(r, have, at)
}

// readAll fills b from offset at.
func readAll(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = corrupt("truncated at byte %d", at+int64(n))
	}
	return err
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// zeros has the size of the largest block.
var zeros [mib]byte

func allZero(b []byte) bool { return bytes.Equal(b, zeros[:len(b)]) }

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), cas.ErrCorrupt)
}

// An identity is a digest of a disk.
type identity struct{ h hash.Hash }

func newIdentity(size int64) identity {
	i := identity{sha256.New()}
	i.number(size)
	return i
}

func (i identity) number(n int64) {
	_, _ = i.h.Write(binary.LittleEndian.AppendUint64(nil, uint64(n))) // a hash returns no error
}

func (i identity) add(n int64, block []byte) {
	i.number(n)
	_, _ = i.h.Write(block)
}

func (i identity) sum() ID { return ID(i.h.Sum(nil)) }
