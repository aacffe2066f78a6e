package imagebuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
)

func (c *Contents) readESPFile(ctx context.Context, b *Builder, f *os.File) error {
	if err := c.readESP(f, c.Size); err != nil {
		return err
	}
	return c.runCheckers(ctx, command("fsck.fat", "-n", c.Image))
}

func (c *Contents) readDisk(ctx context.Context, b *Builder, f *os.File) error {
	t, err := readTable(f, c.Size)
	if err != nil {
		return err
	}
	c.Size, c.TrailingBytes, c.Disk, c.cache, c.esp = t.size, c.Size-t.size, t.guid, t.cache, t.esp
	if err := c.readESP(io.NewSectionReader(f, t.esp.start, t.esp.size), t.esp.size); err != nil {
		return err
	}
	if t.fallback.size > 0 {
		if err := c.readFallback(io.NewSectionReader(f, t.fallback.start, t.fallback.size), t.fallback.size); err != nil {
			return fmt.Errorf("%s: %w", fallbackName, err)
		}
	}
	c.findBuilt()
	if c.BootSum, err = sumRange(ctx, f, t.esp.start, t.esp.size+t.fallback.size); err != nil {
		return err
	}
	tmp, clean, err := b.tempDir()
	if err != nil {
		return err
	}
	defer clean()
	table, esp := filepath.Join(tmp, "table"), filepath.Join(tmp, "esp")
	if err := errors.Join(extract(esp, t.esp.size, c.Image, t.esp), extract(table, t.size, c.Image, span{0, firstPartition}, t.tail())); err != nil {
		return err
	}
	checks := []*tool{command("sgdisk", "-v", table), command("fsck.fat", "-n", esp)}
	if t.fallback.size > 0 {
		second := filepath.Join(tmp, "fallback")
		if err := extract(second, t.fallback.size, c.Image, t.fallback); err != nil {
			return err
		}
		checks = append(checks, command("fsck.fat", "-n", second))
	}
	return c.runCheckers(ctx, append(checks, command("e2fsck", "-f", "-n", fmt.Sprintf("%s?offset=%d", c.Image, t.cache.start)))...)
}

// extract makes a sparse file of size bytes with parts of an image. A single part is moved to
// the start of the file; several parts keep their offsets.
func extract(to string, size int64, image string, parts ...span) error {
	if err := errors.Join(os.WriteFile(to, nil, 0o600), os.Truncate(to, size)); err != nil {
		return file.FullDisk(err)
	}
	for _, s := range parts {
		at := s.start
		if len(parts) == 1 {
			at = 0
		}
		if err := copySparse(to, at, image, s.start, s.size); err != nil {
			return err
		}
	}
	return nil
}

// runCheckers runs the tools that check a format. If a tool finds an error, the image is
// cas.ErrCorrupt. The tool's output is quoted, because it may contain text of the image.
func (c *Contents) runCheckers(ctx context.Context, checks ...*tool) error {
	for _, check := range checks {
		output := new(outputTail)
		check.stdout = output
		err := check.limited().run(ctx)
		var bad *toolError
		if errors.As(err, &bad) || err == nil && check.name == "sgdisk" && !tableIntact(output.buf) {
			return fmt.Errorf("%s: %.300q: %w", check.name, output.lastLines(), cas.ErrCorrupt)
		}
		if err != nil {
			return err
		}
		if !slices.Contains(c.Checks, check.name) {
			c.Checks = append(c.Checks, check.name)
		}
	}
	return nil
}

// tableIntact reads the output of sgdisk -v, which also exits 0 after it repaired the table in
// memory.
func tableIntact(out []byte) bool {
	return bytes.Contains(out, []byte("No problems found")) && !bytes.Contains(out, []byte("Caution"))
}
