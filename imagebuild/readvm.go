package imagebuild

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/phaseboot/phaseboot/imagebuild/diskformat"
	"github.com/phaseboot/phaseboot/internal/file"
)

// readVirtualDisk reads an image of WriteDisk: it compares the image with the one form of its format,
// unpacks the raw disk into the cache, and reads that as readDisk does.
func (c *Contents) readVirtualDisk(format *diskformat.Format) func(context.Context, *Builder, *os.File) error {
	return func(ctx context.Context, b *Builder, f *os.File) error {
		image, err := format.Open(ctx, f, c.Size, filepath.Base(f.Name()))
		if err != nil {
			return err
		}
		if _, bundle := imageFile(c.Image); bundle {
			if err := checkBundle(c.Image, image.Size, image.ID); err != nil {
				return err
			}
		}
		tmp, clean, err := b.tempDir()
		if err != nil {
			return err
		}
		defer clean()
		raw := &Contents{Image: filepath.Join(tmp, "disk.img"), Kind: KindDisk, Size: image.Size}
		if err := raw.unpack(ctx, b, image); err != nil {
			return err
		}
		if raw.TrailingBytes > 0 {
			return badImage("%d bytes after the disk", raw.TrailingBytes)
		}
		raw.Image, raw.Size, raw.DiskSize, raw.Kind = c.Image, c.Size, image.Size, c.Kind
		raw.Built, raw.CacheGrown = 0, false // the tables of the image are compared as a whole
		*c = *raw
		return nil
	}
}

// unpack writes the raw disk of an image and reads it.
func (c *Contents) unpack(ctx context.Context, b *Builder, image *diskformat.Image) error {
	f, err := os.Create(c.Image)
	if err != nil {
		return file.FullDisk(err)
	}
	defer f.Close()
	if err := image.Extract(ctx, f); err != nil {
		return file.FullDisk(err)
	}
	return errors.Join(c.readDisk(ctx, b, f), f.Close())
}
