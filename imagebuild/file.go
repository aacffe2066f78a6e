package imagebuild

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
)

// copyFile copies a file to out.
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
	buf := make([]byte, block)
	for done := int64(0); done < size; done += block {
		data := buf[:min(block, size-done)]
		if err := readAll(src, data, fromOffset+done); err != nil {
			return fmt.Errorf("copy %s: %w", from, err)
		}
		if allZero(data) {
			continue
		}
		if _, err := dst.WriteAt(data, toOffset+done); err != nil {
			return file.FullDisk(err)
		}
	}
	return dst.Close()
}

// writeBelow writes a file below a folder, and makes the folders above it.
func writeBelow(dir, name string, text []byte) error {
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return file.FullDisk(err)
	}
	return file.FullDisk(os.WriteFile(path, text, 0o644))
}
