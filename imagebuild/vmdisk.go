package imagebuild

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/phaseboot/phaseboot/imagebuild/diskformat"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
)

// WriteDisk builds the disk of WriteUSB and writes it to out in a format for virtual machines. size
// is that of the disk. A Parallels disk is a folder (bundle.go); the other formats are one file.
func (b *Builder) WriteDisk(ctx context.Context, m Media, size int64, format *diskformat.Format, out string) (*MediaInfo, error) {
	if err := checkDiskOut(format, out); err != nil {
		return nil, err
	}
	if err := diskformat.CheckSize(size); err != nil {
		return nil, err
	}
	tmp, clean, err := b.tempDir()
	if err != nil {
		return nil, err
	}
	defer clean()
	raw := filepath.Join(tmp, "disk.img")
	info, err := b.WriteUSB(ctx, m, size, raw)
	if err != nil {
		return nil, err
	}
	info.Out, info.Format = out, format.Name
	return info, b.writeFormat(ctx, raw, size, format, out)
}

// ConvertDisk writes a disk that WriteUSB made, or a device that it was written to, to out in a format
// for virtual machines. It returns the size of the disk in bytes. It looks only at the partition
// table; Verify judges the rest.
func (b *Builder) ConvertDisk(ctx context.Context, image string, format *diskformat.Format, out string) (int64, error) {
	if err := checkDiskOut(format, out); err != nil {
		return 0, err
	}
	f, size, err := openImage(image)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if there, err := os.Stat(out); err == nil {
		if info, err := f.Stat(); err == nil && os.SameFile(info, there) {
			return 0, optionsf("out %s: is the disk to convert; name another file", out)
		}
	}
	t, err := readTable(f, size)
	if err != nil {
		return 0, fmt.Errorf("image %s: %w", image, err)
	}
	return t.size, b.writeFormat(ctx, image, t.size, format, out)
}

func checkDiskOut(format *diskformat.Format, out string) error {
	if format == diskformat.Parallels {
		return checkBundleOut(out)
	}
	if err := format.CheckName(filepath.Base(out)); err != nil {
		return err
	}
	return checkOut(out)
}

// writeFormat writes a raw disk of size bytes to out.
func (b *Builder) writeFormat(ctx context.Context, raw string, size int64, format *diskformat.Format, out string) error {
	defer b.progress.step(format.Name + " image")()
	if format == diskformat.Parallels {
		return writeBundle(ctx, raw, size, out)
	}
	return atomicfile.Build(out, 0o644, func(image string) error {
		_, err := encode(ctx, raw, size, format, filepath.Base(out), image)
		return err
	})
}

// encode writes a raw disk to the file image, which will have a name.
func encode(ctx context.Context, raw string, size int64, format *diskformat.Format, name, image string) (diskformat.ID, error) {
	in, err := os.Open(raw)
	if err != nil {
		return diskformat.ID{}, err
	}
	defer in.Close()
	out, err := os.OpenFile(image, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return diskformat.ID{}, file.FullDisk(err)
	}
	defer out.Close()
	id, err := format.Write(ctx, in, size, name, out)
	if err != nil {
		return diskformat.ID{}, file.FullDisk(err)
	}
	return id, out.Sync()
}
