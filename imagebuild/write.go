package imagebuild

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/phaseboot/phaseboot/cas"
)

// writeBlock is the number of bytes that are read, compared or written at once. The first block
// has the partition table.
const writeBlock = mib

// A Write is a verified image and the device that it will replace.
type Write struct {
	Image  *Contents // what the image boots and trusts
	Device Device

	in  *os.File
	out *blockDevice
}

// PrepareWrite opens a whole disk for this process alone, and verifies an image of WriteUSB or WriteISO,
// or a device with one. It writes nothing. It refuses a disk that is in use, write-protected or too
// small, and, without allowFixed, one that is not removable. The caller closes the Write.
func (b *Builder) PrepareWrite(ctx context.Context, image, device string, allowFixed bool) (*Write, error) {
	in, size, err := openImage(image)
	if err != nil {
		return nil, err
	}
	w := &Write{in: in}
	if err := w.prepare(ctx, b, size, device, allowFixed); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

func (w *Write) prepare(ctx context.Context, b *Builder, size int64, device string, allowFixed bool) error {
	size, err := writtenSize(w.in, size)
	if err != nil {
		return fmt.Errorf("image %s: %w", w.in.Name(), err)
	}
	if w.out, err = openDevice(device, size, allowFixed); err != nil {
		return err
	}
	w.Device = w.out.Device
	w.Image, err = b.Verify(ctx, w.in.Name())
	if err == nil && w.Image.SHA256 == "" { // a grown image
		w.Image.SHA256, err = sumRange(ctx, w.in, 0, w.Image.Size)
	}
	return err
}

// writtenSize returns how many bytes of an image of size bytes a device gets. It refuses every kind of image
// that firmware does not start from a device.
func writtenSize(r io.ReaderAt, size int64) (int64, error) {
	c := &Contents{Size: size}
	if _, err := c.detectKind(r); err != nil {
		return 0, err
	}
	switch c.Kind {
	case KindDisk:
		t, err := readTable(r, size)
		if err != nil {
			return 0, err
		}
		return t.size, nil
	case KindISO:
		d, err := readISODisc(r)
		return d.size(), err
	}
	return 0, optionsf("of kind %s; a device needs a raw disk image or an ISO image, which phase-image usb and iso make", c.Kind)
}

// Close closes the image and the device.
func (w *Write) Close() {
	w.in.Close()
	if w.out != nil {
		w.out.Close()
	}
}

// Run writes the image and reads it back from the device, without the page cache. The first block is
// written last, after all other blocks were read back: a device has no partition table until it has the
// whole verified image, and firmware does not boot it before. Blocks of zeros are written only where the
// device has other bytes. If the device reads back other bytes, or the image is not the verified one,
// the error is cas.ErrCorrupt.
//
// written and readBack are called with the bytes that are done and those of the image. sent is the
// number of bytes that were sent to the device.
func (w *Write) Run(ctx context.Context, written, readBack func(done, total int64)) (sent int64, err error) {
	c := copier{in: w.in, out: w.out, size: w.Image.Size, sum: sha256.New()}
	if err = w.out.eraseOldBackup(); err == nil {
		err = c.write(ctx, written)
	}
	if err == nil && hex.EncodeToString(c.sum.Sum(nil)) != w.Image.SHA256 {
		err = fmt.Errorf("the image %s was changed after it was verified: %w", w.in.Name(), cas.ErrCorrupt)
	}
	if err == nil {
		err = c.compare(ctx, readBack)
	}
	if err == nil {
		err = c.writeFirst()
	}
	if err == nil {
		err = w.out.finish()
	}
	switch {
	case err == nil:
	case w.out.gone():
		err = fmt.Errorf("device %s: unplugged: %w; plug it in and write it again: it has only a part of the image", w.Device.Path, err)
	default:
		err = fmt.Errorf("device %s: %w; it has only a part of the image now; write it again to repair it", w.Device.Path, err)
	}
	return c.sent, err
}

// A copier copies size bytes of an image to a device.
type copier struct {
	in   io.ReaderAt
	out  target
	size int64
	sum  hash.Hash // of the image
	sent int64     // bytes that were written

	first []byte // the first block, as it was hashed
	back  []byte // a block that was read back
}

// A target is a device, or a memory in tests.
type target interface {
	io.ReaderAt
	io.WriterAt
	// Zero makes a range zeros. It returns how many bytes it has written.
	Zero(at, size int64) (written int64, err error)
	Sync() error
}

// write writes all blocks but the first one, which becomes zeros.
func (c *copier) write(ctx context.Context, done func(n, total int64)) error {
	c.first = alignedBlock()[:min(writeBlock, c.size)]
	err := c.forEachBlock(ctx, done, func(block []byte, at int64) error {
		c.sum.Write(block)
		switch {
		case at == 0:
			copy(c.first, block)
			if err := c.zero(0, int64(len(block))); err != nil {
				return err
			}
			return c.out.Sync()
		case allZero(block):
			return c.zero(at, int64(len(block)))
		}
		return c.writeAt(block, at)
	})
	return errors.Join(err, c.out.Sync())
}

// writeFirst writes the first block and reads it back. If that fails, it makes the block zeros again.
func (c *copier) writeFirst() error {
	err := errors.Join(c.writeAt(c.first, 0), c.out.Sync())
	if err == nil {
		err = c.compareBlock(c.first, 0)
	}
	if err != nil {
		_ = errors.Join(c.zero(0, int64(len(c.first))), c.out.Sync()) // err is the one to report
	}
	return err
}

func (c *copier) writeAt(b []byte, at int64) error {
	n, err := c.out.WriteAt(b, at)
	c.sent += int64(n)
	return err
}

func (c *copier) zero(at, size int64) error {
	n, err := c.out.Zero(at, size)
	c.sent += n
	return err
}

// compare reads back all blocks but the first one.
func (c *copier) compare(ctx context.Context, done func(n, total int64)) error {
	return c.forEachBlock(ctx, done, func(block []byte, at int64) error {
		if at == 0 {
			return nil
		}
		return c.compareBlock(block, at)
	})
}

func (c *copier) compareBlock(block []byte, at int64) error {
	if c.back == nil {
		c.back = alignedBlock()
	}
	have := c.back[:len(block)]
	if err := readAll(c.out, have, at); err != nil {
		return err
	}
	for i := range block {
		if block[i] != have[i] {
			return fmt.Errorf("byte %d was read back as %#02x, not %#02x; use another stick: %w", at+int64(i), have[i], block[i], cas.ErrCorrupt)
		}
	}
	return nil
}

// forEachBlock calls visit for each block of the image in order.
func (c *copier) forEachBlock(ctx context.Context, done func(n, total int64), visit func(block []byte, at int64) error) error {
	buf := alignedBlock()
	for at := int64(0); at < c.size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		block := buf[:min(writeBlock, c.size-at)]
		if err := readAll(c.in, block, at); err != nil {
			return fmt.Errorf("image: %w", err)
		}
		if err := visit(block, at); err != nil {
			return err
		}
		at += int64(len(block))
		done(at, c.size)
	}
	return ctx.Err()
}

// alignedBlock returns a block that begins at a multiple of 4 KiB in memory, as O_DIRECT needs it.
func alignedBlock() []byte {
	const align = 4 << 10
	buf := make([]byte, writeBlock+align)
	return buf[skipTo(buf, align):][:writeBlock:writeBlock]
}

// readAll fills b from offset at.
func readAll(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
