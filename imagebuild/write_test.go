package imagebuild

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
)

// A memory is a device in memory that counts the written bytes.
type memory struct {
	data       []byte
	written    int
	dropWrites bool
}

func (m *memory) ReadAt(b []byte, at int64) (int, error) {
	return bytes.NewReader(m.data).ReadAt(b, at)
}
func (m *memory) Sync() error { return nil }
func (m *memory) WriteAt(b []byte, at int64) (int, error) {
	m.written += len(b)
	if !m.dropWrites {
		copy(m.data[at:], b)
	}
	return len(b), nil
}

func TestWritingReplacesOldBytesAndSkipsZeros(t *testing.T) {
	image := make([]byte, 8*writeBlock+512)
	image[0], image[5*writeBlock], image[8*writeBlock] = 1, 2, 3
	out := &memory{data: make([]byte, len(image)+writeBlock)}
	for i := range out.data[3*writeBlock : 4*writeBlock] {
		out.data[3*writeBlock+i] = 0xff // old bytes of the stick
	}
	after := out.data[len(image):]
	after[0] = 7
	var last int64
	w := writer{bytes.NewReader(image), out, int64(len(image)), func(n, _ int64) { last = n }}
	if err := errors.Join(w.write(t.Context()), w.compare(t.Context())); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.data[:len(image)], image) || after[0] != 7 {
		t.Error("the device does not contain the image, or bytes after it were changed")
	}
	if want := 3*writeBlock + 512; out.written != want {
		t.Errorf("%d bytes were written, want %d: three whole blocks and a short one", out.written, want)
	}
	if last != 2*int64(len(image)) {
		t.Errorf("progress ended at %d", last)
	}
}

func TestADeviceThatDropsWritesIsCorrupt(t *testing.T) {
	image := bytes.Repeat([]byte{1}, writeBlock)
	w := writer{bytes.NewReader(image), &memory{data: make([]byte, len(image)), dropWrites: true}, int64(len(image)), func(int64, int64) {}}
	if err := w.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.compare(t.Context()); !errors.Is(err, cas.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}

func TestOnlyAnImageIsWrittenOnlyToADevice(t *testing.T) {
	text := filepath.Join(t.TempDir(), "README.md")
	if err := os.WriteFile(text, bytes.Repeat([]byte("# Phase Boot\n"), 1<<17), 0o600); err != nil {
		t.Fatal(err)
	}
	image := validDisk(t, testBuilder(t))
	for _, c := range []struct {
		image, device string
		want          error
	}{
		{text, "/dev/null", cas.ErrCorrupt},
		{image, "/dev/null", fs.ErrInvalid},
		{image, text, fs.ErrInvalid},
		{image, text + "-not", os.ErrNotExist},
		{text + "-not", "/dev/null", os.ErrNotExist},
		{t.TempDir(), "/dev/null", fs.ErrInvalid},
	} {
		if err := WriteDevice(t.Context(), c.image, c.device, nil); !errors.Is(err, c.want) {
			t.Errorf("%s to %s: got %v, want %v", c.image, c.device, err, c.want)
		}
	}
}
