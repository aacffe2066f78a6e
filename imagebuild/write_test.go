package imagebuild

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/gpt"
	"github.com/phaseboot/phaseboot/internal/looptest"
)

// A memory is a device in memory that counts the written bytes.
type memory struct {
	data       []byte
	written    int
	dropWrites bool
	offsets    []int64 // of writes
}

func (m *memory) ReadAt(b []byte, at int64) (int, error) {
	return bytes.NewReader(m.data).ReadAt(b, at)
}
func (m *memory) Sync() error { return nil }
func (m *memory) WriteAt(b []byte, at int64) (int, error) {
	m.written += len(b)
	m.offsets = append(m.offsets, at)
	if !m.dropWrites {
		copy(m.data[at:], b)
	}
	return len(b), nil
}

func (m *memory) Zero(at, size int64) (int64, error) {
	if allZero(m.data[at : at+size]) {
		return 0, nil
	}
	n, err := m.WriteAt(make([]byte, size), at)
	return int64(n), err
}

func noProgress(int64, int64) {}

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
	c := copier{in: bytes.NewReader(image), out: out, size: int64(len(image)), sum: sha256.New()}
	progress := func(n, _ int64) { last = n }
	if err := errors.Join(c.write(t.Context(), progress), c.compare(t.Context(), progress)); err != nil {
		t.Fatal(err)
	}
	if !allZero(out.data[:writeBlock]) {
		t.Error("the partition table is written before all other blocks were read back")
	}
	if err := c.writeFirst(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.data[:len(image)], image) || after[0] != 7 {
		t.Error("the device does not contain the image, or bytes after it were changed")
	}
	if want := 3*writeBlock + 512; out.written != want || c.sent != int64(want) {
		t.Errorf("%d bytes were written, %d reported, want %d: three whole blocks and a short one", out.written, c.sent, want)
	}
	if out.offsets[len(out.offsets)-1] != 0 {
		t.Errorf("the partition table is not written last: %d", out.offsets)
	}
	if sum := sha256.Sum256(image); !bytes.Equal(c.sum.Sum(nil), sum[:]) {
		t.Error("wrong digest of the image")
	}
	if last != int64(len(image)) {
		t.Errorf("progress ended at %d", last)
	}
}

func TestADeviceThatDropsWritesIsCorrupt(t *testing.T) {
	image := bytes.Repeat([]byte{1}, 2*writeBlock)
	c := copier{in: bytes.NewReader(image), out: &memory{data: make([]byte, len(image)), dropWrites: true}, size: int64(len(image)), sum: sha256.New()}
	if err := c.write(t.Context(), noProgress); err != nil {
		t.Fatal(err)
	}
	if err := c.compare(t.Context(), noProgress); !errors.Is(err, cas.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
	if err := c.writeFirst(); !errors.Is(err, cas.ErrCorrupt) {
		t.Errorf("the first block: got %v", err)
	}
}

func TestOnlyAnImageIsWrittenOnlyToADevice(t *testing.T) {
	text := filepath.Join(t.TempDir(), "README.md")
	if err := os.WriteFile(text, bytes.Repeat([]byte("# Phase Boot\n"), 1<<17), 0o600); err != nil {
		t.Fatal(err)
	}
	b := testBuilder(t)
	image := validDisk(t, b)
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
		if _, err := b.PrepareWrite(t.Context(), c.image, c.device, true); !errors.Is(err, c.want) {
			t.Errorf("%s to %s: got %v, want %v", c.image, c.device, err, c.want)
		}
	}
}

// TestWriteToLoopDevices writes one image to devices that work and to devices that do not.
func TestWriteToLoopDevices(t *testing.T) {
	looptest.Need(t)
	b := testBuilder(t)
	image := validDisk(t, b)
	for name, test := range map[string]func(t *testing.T, b *Builder, image string){
		"good": writeGood, "flips a bit": writeFlipped, "image changes": writeChanging, "interrupted": writeInterrupted,
		"same size": writeSameSize, "pulled": writePulled, "full": writeFull, "in use": writeInUse, "ISO": writeISO, "grown": writeGrown, "other kinds": writeOtherKind,
	} {
		t.Run(name, func(t *testing.T) { test(t, b, image) })
	}
}

// stick makes a file of 400 MiB with old bytes and attaches it as a loop device.
func stick(t *testing.T) (device, file string) {
	t.Helper()
	file = emptyFile(t, t.TempDir(), 400*mib)
	patch(t, file, 0, []byte("old bytes"))
	patch(t, file, 299*mib, bytes.Repeat([]byte{0xff}, 2*mib)) // zeros in the image, and bytes after it
	patch(t, file, -sector, []byte("EFI PART of an older table"))
	return looptest.Attach(t, file, 0).Path, file
}

func prepareWrite(t *testing.T, b *Builder, image, device string) *Write {
	t.Helper()
	w, err := b.PrepareWrite(t.Context(), image, device, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func writeGood(t *testing.T, b *Builder, image string) {
	device, file := stick(t)
	for _, zeroes := range []bool{true, false} { // by the device, or by this program
		patch(t, file, 150*mib+7, []byte("old bytes"))
		w := prepareWrite(t, b, image, device)
		w.out.zeroes = zeroes
		sent, err := w.Run(t.Context(), noProgress, noProgress)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cmp", "-n", "314572800", image, file).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if sent == 0 || sent > 100*mib {
			t.Errorf("%d bytes were written", sent)
		}
	}
	after, err := b.Verify(t.Context(), device)
	if err != nil || after.TrailingBytes != 100*mib {
		t.Fatalf("the device is not accepted: %+v, %v", after, err)
	}
	if data := readSpan(t, file, span{400*mib - sector, 16}); !allZero(data) {
		t.Errorf("an old backup of a partition table is still there: %q", data)
	}
	if data := readSpan(t, file, span{300 * mib, 16}); allZero(data) {
		t.Error("bytes after the image were changed")
	}
}

func writeISO(t *testing.T, b *Builder, _ string) {
	tree, image := validTree(t, b), emptyFile(t, t.TempDir(), 0)
	if err := b.makeISO(t.Context(), tree, isoDisc{esp: tree.size(), date: tree.fatDate()}, image); err != nil {
		t.Fatal(err)
	}
	device, _ := stick(t)
	w := prepareWrite(t, b, image, device)
	if _, err := w.Run(t.Context(), noProgress, noProgress); err != nil {
		t.Fatal(err)
	}
	if c, err := b.Verify(t.Context(), device); err != nil || c.Kind != KindISO || c.SHA256 != w.Image.SHA256 {
		t.Errorf("the device is not accepted: %+v, %v", c, err)
	}
}

// A stick that has grown is copied to another one.
func writeGrown(t *testing.T, b *Builder, image string) {
	source := filepath.Join(t.TempDir(), "grown.img")
	if out, err := exec.Command("cp", "--sparse=always", image, source).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f, err := os.OpenFile(source, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(350 * mib); err != nil {
		t.Fatal(err)
	}
	if _, err := gpt.Grow(f, 350*mib, 2); err != nil {
		t.Fatal(err)
	}
	device, _ := stick(t)
	w := prepareWrite(t, b, source, device)
	if _, err := w.Run(t.Context(), noProgress, noProgress); err != nil {
		t.Fatal(err)
	}
	if c, err := b.Verify(t.Context(), device); err != nil || c.Built != 300*mib || !c.CacheGrown || c.TrailingBytes != 50*mib {
		t.Errorf("the device is not accepted: %+v, %v", c, err)
	}
}

// Firmware does not start these kinds from a device.
func writeOtherKind(t *testing.T, b *Builder, image string) {
	device, _ := stick(t)
	esp := filepath.Join(t.TempDir(), "esp")
	if err := extract(esp, minESP, image, span{firstPartition, minESP}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.PrepareWrite(t.Context(), esp, device, true); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "of kind esp; a device needs a raw disk image or an ISO image") {
		t.Errorf("got %v", err)
	}
}

func readSpan(t *testing.T, file string, s span) []byte {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, s.size)
	if err := readAll(f, data, s.start); err != nil {
		t.Fatal(err)
	}
	return data
}

// The device changes a bit after it was written. A comparison with the page cache of the device
// would not see it.
func writeFlipped(t *testing.T, b *Builder, image string) {
	device, file := stick(t)
	w := prepareWrite(t, b, image, device)
	const at = firstPartition + 11
	_, err := w.Run(t.Context(), noProgress, func(done, _ int64) {
		if done == mib { // the second block is not read back yet
			was := readSpan(t, file, span{at, 1})
			patch(t, file, at, []byte{was[0] ^ 4})
		}
	})
	if !errors.Is(err, cas.ErrCorrupt) || !strings.Contains(err.Error(), "byte 1048587 was read back as 0x") {
		t.Errorf("got %v", err)
	}
	noTable(t, file)
}

// noTable fails if firmware would start the device.
func noTable(t *testing.T, file string) {
	t.Helper()
	if !allZero(readSpan(t, file, span{0, mib})) {
		t.Error("the device has a partition table")
	}
}

func writeChanging(t *testing.T, b *Builder, image string) {
	device, file := stick(t)
	own := filepath.Join(t.TempDir(), "own.img")
	if out, err := exec.Command("cp", "--sparse=always", image, own).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w := prepareWrite(t, b, own, device)
	patch(t, own, 150*mib, []byte("x"))
	if _, err := w.Run(t.Context(), noProgress, noProgress); !errors.Is(err, cas.ErrCorrupt) || !strings.Contains(err.Error(), "was changed after it was verified") {
		t.Errorf("got %v", err)
	}
	noTable(t, file)
}

func writeInterrupted(t *testing.T, b *Builder, image string) {
	device, file := stick(t)
	w := prepareWrite(t, b, image, device)
	ctx, stop := context.WithCancel(t.Context())
	_, err := w.Run(ctx, func(done, _ int64) {
		if done == 40*mib {
			stop()
		}
	}, noProgress)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "only a part of the image now; write it again to repair it") {
		t.Errorf("got %v", err)
	}
	noTable(t, file)
	w.Close()
	w = prepareWrite(t, b, image, device)
	if _, err := w.Run(t.Context(), noProgress, noProgress); err != nil {
		t.Error(err)
	}
}

// The device is as large as the image and has an older one. Firmware would take the backup of its
// partition table, and start a file of which only a part was replaced.
func writeSameSize(t *testing.T, b *Builder, image string) {
	file := filepath.Join(t.TempDir(), "stick")
	if out, err := exec.Command("cp", "--sparse=always", image, file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w := prepareWrite(t, b, image, looptest.Attach(t, file, 0).Path)
	for _, stopRead := range []bool{false, true} {
		ctx, stop := context.WithCancel(t.Context())
		at := func(stops bool) func(int64, int64) {
			return func(done, _ int64) {
				if stops && done == 40*mib {
					stop()
				}
			}
		}
		if _, err := w.Run(ctx, at(!stopRead), at(stopRead)); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		noTable(t, file)
		if backup := readSpan(t, file, span{300*mib - sector, 8}); !stopRead && !allZero(backup) {
			t.Errorf("the backup of the older partition table is still there: %q", backup)
		}
	}
}

func writePulled(t *testing.T, b *Builder, image string) {
	file := emptyFile(t, t.TempDir(), 400*mib)
	d := looptest.Attach(t, file, 0)
	w := prepareWrite(t, b, image, d.Path)
	_, err := w.Run(t.Context(), func(done, _ int64) {
		if done == 20*mib {
			if err := os.Truncate(file, 0); err != nil {
				t.Error(err)
			}
			d.SetCapacity(t)
		}
	}, noProgress)
	if err == nil || !strings.Contains(err.Error(), "unplugged: ") || !strings.Contains(err.Error(), "write it again") {
		t.Errorf("got %v", err)
	}
}

// A counterfeit stick has less memory than it says.
func writeFull(t *testing.T, b *Builder, image string) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	w := prepareWrite(t, b, image, looptest.Attach(t, emptyFile(t, dir, 400*mib), 0).Path)
	if _, err := w.Run(t.Context(), noProgress, noProgress); err == nil || !strings.Contains(err.Error(), "only a part of the image now") {
		t.Errorf("got %v", err)
	}
}

// emptyFile makes a sparse file.
func emptyFile(t *testing.T, dir string, size int64) string {
	t.Helper()
	name := filepath.Join(dir, "stick")
	if err := errors.Join(os.WriteFile(name, nil, 0o600), os.Truncate(name, size)); err != nil {
		t.Fatal(err)
	}
	return name
}

func writeInUse(t *testing.T, b *Builder, image string) {
	file := func(size int64) string { return emptyFile(t, t.TempDir(), size) }
	mounted := looptest.Attach(t, file(400*mib), 0).Path
	if out, err := exec.Command("mke2fs", "-q", "-F", mounted).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir := t.TempDir()
	if err := unix.Mount(mounted, dir, "ext2", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	held := looptest.Attach(t, file(400*mib), 0).Path
	f, err := os.OpenFile(held, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, c := range map[string]struct {
		device string
		fixed  bool
		words  string
	}{
		"mounted":         {mounted, true, "mounted at " + dir + "; unmount it first"},
		"in use":          {held, true, "in use: "},
		"too small":       {looptest.Attach(t, file(100*mib), 0).Path, true, "too small: 104857600 bytes, the image has 314572800"},
		"write-protected": {looptest.Attach(t, file(400*mib), unix.LO_FLAGS_READ_ONLY).Path, true, "write-protected"},
		"not removable":   {looptest.Attach(t, file(400*mib), 0).Path, false, "not removable; add --allow-fixed"},
		"other sectors":   {looptest.AttachSectors(t, file(400*mib), 0, 4096).Path, true, "its sectors have 4096 bytes"},
	} {
		_, err := b.PrepareWrite(t.Context(), image, c.device, c.fixed)
		if !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: got %v, want %q", name, err, c.words)
		}
	}
}
