package imagebuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
)

// writeBlock is the number of bytes that are read, compared or written at once.
const writeBlock = mib

// WriteDevice writes an image of WriteUSB to a whole block device and reads it back. It opens
// the device exclusively, which the kernel refuses while the device is mounted or part of
// LVM, RAID or an open dm-crypt. Blocks of zeros are written only where the device has other
// bytes. done gets the number of bytes that were written or read back, of a total of twice
// the image. If the device reads back other bytes, the error is cas.ErrCorrupt.
func WriteDevice(ctx context.Context, image, device string, done func(n, total int64)) error {
	in, size, err := openImage(image)
	if err != nil {
		return err
	}
	defer in.Close()
	t, err := readTable(in, size)
	if err != nil {
		return fmt.Errorf("image %s: %w", image, err)
	}
	out, err := openDevice(device, t.size)
	if err != nil {
		return err
	}
	defer out.Close()
	w := writer{in, out, t.size, done}
	if err := w.write(ctx); err != nil {
		return fmt.Errorf("device %s: %w", device, err)
	}
	// drop the page cache, so that the bytes are read back from the device
	_ = unix.IoctlSetInt(int(out.Fd()), unix.BLKFLSBUF, 0)
	if err := w.compare(ctx); err != nil {
		return fmt.Errorf("device %s: %w", device, err)
	}
	return out.Close()
}

// openDevice opens a block device of at least size bytes for this process alone.
func openDevice(name string, size int64) (*os.File, error) {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("device %s: %w; lsblk lists the devices", name, fs.ErrNotExist)
	case err != nil:
		return nil, fmt.Errorf("device: %w", err)
	case info.Mode().Type() != fs.ModeDevice:
		return nil, optionsf("device %s: not a block device; lsblk lists them", name)
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, optionsf("device %s: in use: mounted, or part of LVM, RAID or an open dm-crypt; lsblk shows its use; release it first", name)
	}
	if err != nil {
		return nil, fmt.Errorf("device: %w; run it as root", err)
	}
	have, err := f.Seek(0, io.SeekEnd)
	if err == nil && have < size {
		err = optionsf("device %s: too small: %d bytes, the image has %d; build it with a smaller --size", name, have, size)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// A writer copies size bytes of an image to a device.
type writer struct {
	in       io.ReaderAt
	out      device
	size     int64
	progress func(n, total int64)
}

type device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

func (w writer) write(ctx context.Context) error {
	old := make([]byte, writeBlock)
	err := w.forEachBlock(ctx, 0, func(block []byte, at int64) error {
		if allZero(block) {
			if err := readAll(w.out, old[:len(block)], at); err != nil {
				return err
			}
			if allZero(old[:len(block)]) {
				return nil
			}
		}
		_, err := w.out.WriteAt(block, at)
		return err
	})
	return errors.Join(err, w.out.Sync())
}

func (w writer) compare(ctx context.Context) error {
	have := make([]byte, writeBlock)
	return w.forEachBlock(ctx, w.size, func(block []byte, at int64) error {
		if err := readAll(w.out, have[:len(block)], at); err != nil {
			return err
		}
		if !bytes.Equal(block, have[:len(block)]) {
			return fmt.Errorf("bytes read back differ from byte %d; use another stick: %w", at, cas.ErrCorrupt)
		}
		return nil
	})
}

// forEachBlock calls visit for each block of the image in order. before is the number of bytes done
// by earlier passes, for the progress.
func (w writer) forEachBlock(ctx context.Context, before int64, visit func(block []byte, at int64) error) error {
	buf := make([]byte, writeBlock)
	for at := int64(0); at < w.size; {
		block := buf[:min(writeBlock, w.size-at)]
		if err := readAll(w.in, block, at); err != nil {
			return err
		}
		if err := visit(block, at); err != nil {
			return err
		}
		at += int64(len(block))
		w.progress(before+at, 2*w.size)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
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
