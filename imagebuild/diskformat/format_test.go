package diskformat

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
)

// rawDisk makes a sparse disk with random bytes at some offsets: the first and the last sector,
// both sides of the blocks and tables of each format, and a block that is zero but not a hole.
func rawDisk(t *testing.T, size int64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	random := rand.NewChaCha8([32]byte{1})
	write := func(at int64, n int) {
		b := make([]byte, n)
		_, _ = random.Read(b) // never fails
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	write(0, sector)
	write(5*mib-100, 3*mib)
	write(size-sector, sector)
	for at := int64(512 * mib); at < size; at += 512 * mib { // an L2 table of QCOW2
		write(at-70*kib, 140*kib)
	}
	if _, err := f.WriteAt(make([]byte, 2*mib), 20*mib); err != nil {
		t.Fatal(err)
	}
	return name
}

// write makes an image of a raw disk in a folder of its own.
func write(t *testing.T, f *Format, raw string, size int64) string {
	t.Helper()
	in, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	name := filepath.Join(t.TempDir(), "disk."+f.Name)
	out, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := f.Write(t.Context(), in, size, filepath.Base(name), out); err != nil {
		t.Fatal(err)
	}
	return name
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v; run: apt-get install qemu-utils\n%s", name, args, err, out)
	}
	return string(out)
}

// sizes are disks of one and of several tables: of QCOW2's L2, of VHDX's chunks, of the cluster of
// a Parallels table.
var sizes = []int64{32 * mib, 300 * mib, 4<<30 + 3*mib}

func TestQEMUReadsTheSameDisk(t *testing.T) {
	for _, size := range sizes {
		raw := rawDisk(t, size)
		for _, f := range Formats {
			image := write(t, f, raw, size)
			tool(t, "qemu-img", "check", "-f", f.Name, image)
			compare(t, f, raw, image, size)
			var of syscall.Stat_t
			if err := syscall.Stat(image, &of); err != nil || of.Blocks*sector > 12*mib+size/100 {
				t.Errorf("%s of %d bytes takes %d bytes on the disk, %v", f.Name, size, of.Blocks*sector, err)
			}
		}
	}
}

// compare lets QEMU compare an image with the raw disk. QEMU reads each zero of a VHDX, so of a
// large one only the end is compared, after the first chunk of its table.
func compare(t *testing.T, f *Format, raw, image string, size int64) {
	t.Helper()
	format := f.Name
	if f == VHDX && size > 4<<30 {
		raw, image = end(t, "raw", raw), end(t, format, image)
		format = "raw"
	}
	if out := tool(t, "qemu-img", "compare", "-f", "raw", "-F", format, raw, image); !strings.Contains(out, "identical") {
		t.Errorf("%s of %d bytes: %s", f.Name, size, out)
	}
}

// end returns the raw bytes of an image from 4080 MiB on.
func end(t *testing.T, format, image string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "end")
	tool(t, "qemu-img", "dd", "-f", format, "-O", "raw", "bs=1M", "skip=4080", "if="+image, "of="+out)
	return out
}

// Neither the holes of the file nor its place decide what is written.
func TestTheSameDiskGivesTheSameBytes(t *testing.T) {
	raw := rawDisk(t, sizes[1])
	full := filepath.Join(t.TempDir(), "full.img")
	tool(t, "cp", "--sparse=never", raw, full)
	changed := filepath.Join(t.TempDir(), "changed.img")
	tool(t, "cp", raw, changed)
	patch(t, changed, 6*mib, []byte{0xff, 0xfe, 0xfd})
	for _, f := range Formats {
		first := sum(t, write(t, f, raw, sizes[1]))
		if second := sum(t, write(t, f, full, sizes[1])); first != second {
			t.Errorf("%s: the disk without holes gives other bytes", f.Name)
		}
		if other := sum(t, write(t, f, changed, sizes[1])); first == other {
			t.Errorf("%s: another disk gives the same bytes", f.Name)
		}
	}
}

func sum(t *testing.T, name string) [32]byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(data)
}

func patch(t *testing.T, name string, at int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, at); err != nil {
		t.Fatal(err)
	}
}

// open reads an image and returns the error of Open or Extract.
func open(t *testing.T, image, raw string) error {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 16)
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	format := Detect(head)
	if format == nil {
		return cas.ErrCorrupt
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	i, err := format.Open(t.Context(), f, info.Size(), filepath.Base(image))
	if err != nil {
		return err
	}
	out, err := os.Create(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	return i.Extract(t.Context(), out)
}

func TestAnImageIsReadBack(t *testing.T) {
	for _, size := range sizes {
		raw := rawDisk(t, size)
		for _, f := range Formats {
			back := filepath.Join(t.TempDir(), "back.img")
			if err := open(t, write(t, f, raw, size), back); err != nil {
				t.Errorf("%s of %d bytes: %v", f.Name, size, err)
				continue
			}
			tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", raw, back)
		}
	}
}

// A disk that is empty has no block.
func TestAnEmptyDiskIsReadBack(t *testing.T) {
	raw := filepath.Join(t.TempDir(), "empty.img")
	tool(t, "truncate", "-s", "32M", raw)
	for _, f := range Formats {
		image := write(t, f, raw, 32*mib)
		tool(t, "qemu-img", "compare", "-f", "raw", "-F", f.Name, raw, image)
		if err := open(t, image, filepath.Join(t.TempDir(), "back.img")); err != nil {
			t.Errorf("%s: %v", f.Name, err)
		}
	}
}

// Each of these images is read by QEMU, and some read another disk than their first tables show.
func TestAttackAnImageThatIsNotInTheOneForm(t *testing.T) {
	raw := rawDisk(t, 32*mib)
	qemu := func(format string, more ...string) func(string) {
		return func(image string) {
			tool(t, "qemu-img", append(append([]string{"convert", "-f", "raw", "-O", format}, more...), raw, image)...)
		}
	}
	bytesAt := func(at int64, data string) func(string) {
		return func(image string) { patch(t, image, at, []byte(data)) }
	}
	longer := func(image string) {
		info, err := os.Stat(image)
		if err != nil {
			t.Fatal(err)
		}
		patch(t, image, info.Size(), make([]byte, mib))
	}
	used := func(format string) func(string) {
		return func(image string) { tool(t, "qemu-io", "-f", format, "-c", "write -P 7 17M 1M", image) }
	}
	for _, c := range []struct {
		format *Format
		name   string
		change func(image string)
	}{
		{QCOW2, "written by qemu-img", qemu("qcow2")},
		{QCOW2, "compressed", qemu("qcow2", "-c")},
		{QCOW2, "with a backing file", func(image string) {
			tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", raw, image)
		}},
		{QCOW2, "with a data file", func(image string) {
			tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file_raw=on,data_file="+image+".data", image, "32M")
		}},
		{QCOW2, "with a snapshot", func(image string) { tool(t, "qemu-img", "snapshot", "-c", "one", image) }},
		{QCOW2, "used", used("qcow2")},
		{QCOW2, "longer", longer},
		{QCOW2, "with bytes after the header", bytesAt(200, "x")},
		{QCOW2, "two clusters swapped", func(image string) { swap(t, image, 4*qcowCluster, 8) }},
		{QCOW2, "L1 table far away", bytesAt(40, "\x7f\xff\xff\xff\xff\xff\xff\xf0")},
		{QCOW2, "huge", bytesAt(36, "\xff\xff\xff\xff")},
		{QCOW2, "huge disk", bytesAt(24, "\x7f")},
		{VMDK, "written by qemu-img", qemu("vmdk")},
		{VMDK, "of two files", qemu("vmdk", "-o", "subformat=twoGbMaxExtentSparse")},
		{VMDK, "compressed", qemu("vmdk", "-o", "subformat=streamOptimized")},
		{VMDK, "used", used("vmdk")},
		{VMDK, "another extent", bytesAt(sector+100, "other.vmdk")},
		{VMDK, "without a capacity", bytesAt(12, "\x00\x00\x00\x00\x00\x00\x00\x00")},
		{VMDK, "huge", bytesAt(12, "\xff\xff\xff\xff\xff\xff\xff\xff")},
		{VMDK, "spare directory of another disk", bytesAt(22*sector, "\x01")},
		{VMDK, "not closed", bytesAt(72, "\x01")},
		{VHDX, "written by qemu-img", qemu("vhdx")},
		{VHDX, "used", used("vhdx")},
		{VHDX, "a second header", bytesAt(vhdxHeaders+8, "\x09")},
		{VHDX, "a log", bytesAt(vhdxLog, "loge")},
		{VHDX, "another region table", bytesAt(vhdxRegions+64*kib+16, "x")},
		{VHDX, "huge", bytesAt(vhdxMeta+vhdxItems+8, "\xff\xff\xff\xff\xff\xff\xff\xff")},
		{Parallels, "used", used("parallels")},
		{Parallels, "in use", bytesAt(44, "\x59\x6e\x6f\x74")},
		{Parallels, "an extension", bytesAt(56, "\x01")},
		{Parallels, "huge", bytesAt(36, "\xff\xff\xff\xff\xff\xff\xff\xff")},
		{Parallels, "two entries swapped", func(image string) { swap(t, image, hdsHeader, 4) }},
		{Parallels, "old magic", bytesAt(0, "WithoutFreeSpace")},
	} {
		image := write(t, c.format, raw, 32*mib)
		c.change(image)
		if err := open(t, image, filepath.Join(t.TempDir(), "back.img")); !errors.Is(err, cas.ErrCorrupt) {
			t.Errorf("%s %s: %v", c.format.Name, c.name, err)
		}
	}
}

// swap exchanges two words of a table that are not zero.
func swap(t *testing.T, image string, at int64, width int) {
	t.Helper()
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for i := int(at); len(found) < 2; i += width {
		if !allZero(data[i : i+width]) {
			found = append(found, i)
		}
	}
	first := bytes.Clone(data[found[0] : found[0]+width])
	copy(data[found[0]:], data[found[1]:found[1]+width])
	copy(data[found[1]:], first)
	if err := os.WriteFile(image, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A VMDK repeats its file name; VMware opens the file that it names.
func TestARenamedVMDKIsRefusedWithItsName(t *testing.T) {
	image := write(t, VMDK, rawDisk(t, 32*mib), 32*mib)
	other := filepath.Join(filepath.Dir(image), "other.vmdk")
	tool(t, "mv", image, other)
	err := open(t, other, filepath.Join(t.TempDir(), "back.img"))
	if !errors.Is(err, cas.ErrCorrupt) || !strings.Contains(err.Error(), `names the file "disk.vmdk"; give it that name again`) {
		t.Errorf("got %v", err)
	}
}

func TestSizesAndNamesThatAFormatCannotHoldAreRefused(t *testing.T) {
	for size, want := range map[int64]string{
		32*mib + 512:  "use --size 33M",
		MaxSize + mib: "at most --size 64G",
	} {
		if err := CheckSize(size); !errors.Is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v", size, err)
		}
	}
	if err := VMDK.CheckName("a \"b\".vmdk"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestAnInterruptEndsAWrite(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	raw, err := os.Open(rawDisk(t, 32*mib))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for _, f := range Formats {
		if _, err := f.Write(ctx, raw, 32*mib, "x", nil); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", f.Name, err)
		}
	}
}

// FuzzOpen checks that an image is accepted or cas.ErrCorrupt. The blocks follow the fuzzed bytes.
func FuzzOpen(f *testing.F) {
	const size = 2 * mib
	block := bytes.Repeat([]byte("x"), mib)
	for i, format := range Formats {
		d := &disk{name: "x", size: size, block: format.block, used: []int64{1}}
		h := newIdentity(size)
		h.add(1, block[:format.block])
		d.id = h.sum()
		f.Add(i, bytes.TrimRight(format.tables(d), "\x00"), int64(len(format.tables(d))))
	}
	f.Fuzz(func(t *testing.T, n int, head []byte, tables int64) {
		format := Formats[uint(n)%uint(len(Formats))]
		if tables < int64(len(head)) || tables > 8*mib {
			return
		}
		image := append(append(head, make([]byte, tables-int64(len(head)))...), block[:format.block]...)
		i, err := format.Open(t.Context(), bytes.NewReader(image), int64(len(image)), "x")
		if err == nil {
			err = i.Extract(t.Context(), memory{})
		}
		if err != nil && !errors.Is(err, cas.ErrCorrupt) {
			t.Error(err)
		}
	})
}

// memory is a Target that forgets.
type memory struct{}

func (memory) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }
func (memory) Truncate(int64) error                   { return nil }
