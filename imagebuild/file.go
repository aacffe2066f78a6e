package imagebuild

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
)

// buildFile makes a file that other programs write. fill gets the name of an empty temporary
// file in the folder of out. The file is renamed to out if fill succeeds, or else removed.
func buildFile(out string, fill func(file string) error) (err error) {
	dir := filepath.Dir(out)
	f, err := os.CreateTemp(dir, "."+filepath.Base(out)+".*")
	if err != nil {
		return file.FullDisk(err)
	}
	defer f.Close()
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err = fill(f.Name()); err != nil {
		return err
	}
	if err = errors.Join(f.Chmod(0o644), f.Sync()); err != nil {
		return file.FullDisk(err)
	}
	if err = os.Rename(f.Name(), out); err != nil {
		return err
	}
	return atomicfile.SyncDir(dir)
}

// copyFile copies a file of the cache to out.
func copyFile(from, out string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return atomicfile.WriteFrom(out, 0o644, func(w io.Writer) error {
		_, err := io.Copy(w, f)
		return err
	})
}

// copySparse copies a range of one file into another and skips blocks of zeros, so that a
// mostly empty image takes little space. The target must have zeros there.
func copySparse(to string, toOffset int64, from string, fromOffset, size int64) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer dst.Close()
	const block = 64 << 10
	buf, zero := make([]byte, block), make([]byte, block)
	for done := int64(0); done < size; {
		n, err := src.ReadAt(buf[:min(block, size-done)], fromOffset+done)
		if n == 0 {
			return fmt.Errorf("copy %s: %w", from, errors.Join(err, io.ErrUnexpectedEOF))
		}
		if !bytes.Equal(buf[:n], zero[:n]) {
			if _, err := dst.WriteAt(buf[:n], toOffset+done); err != nil {
				return file.FullDisk(err)
			}
		}
		done += int64(n)
	}
	return dst.Close()
}
