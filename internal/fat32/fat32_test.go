package fat32

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A disk is a filesystem in memory. It remembers the writes and syncs since it was made.
type disk struct {
	data []byte
	log  []write
}

// A write of one sector; a nil one is a sync.
type write struct {
	at   int64
	data []byte
}

func (d *disk) ReadAt(p []byte, at int64) (int, error) {
	n := copy(p, d.data[min(at, int64(len(d.data))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (d *disk) WriteAt(p []byte, at int64) (int, error) {
	if at%sector != 0 || len(p)%sector != 0 {
		return 0, errors.New("a write of a part of a sector")
	}
	for i := 0; i < len(p); i += sector {
		d.log = append(d.log, write{at + int64(i), slices.Clone(p[i : i+sector])})
	}
	return copy(d.data[at:], p), nil
}

func (d *disk) Sync() error {
	d.log = append(d.log, write{})
	return nil
}

// newDisk makes a filesystem with mkfs.vfat and copies files into it with mtools.
func newDisk(t *testing.T, files map[string]string) *disk {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	must(t, "truncate", "-s", "34M", image)
	must(t, "mkfs.vfat", "--invariant", "-F", "32", "-s", "1", image)
	must(t, "mmd", "-i", image, "::/dir")
	for name, text := range files {
		local := filepath.Join(t.TempDir(), "local")
		if err := os.WriteFile(local, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		must(t, "mcopy", "-i", image, local, "::/"+name)
	}
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return &disk{data: data}
}

func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v; install dosfstools and mtools\n%s", name, args, err, out)
	}
	return string(out)
}

// save writes the filesystem into a file for other programs.
func (d *disk) save(t *testing.T) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, d.data, 0o600); err != nil {
		t.Fatal(err)
	}
	return image
}

func (d *disk) open(t *testing.T) *Volume {
	t.Helper()
	v, err := Open(d, int64(len(d.data)))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (d *disk) fsck(t *testing.T) {
	t.Helper()
	must(t, "fsck.fat", "-n", d.save(t))
}

func content(n int) string { return strings.Repeat("0123456789abcdef", n/16+1)[:n] }

func read(v *Volume, name string) (string, error) {
	f, err := v.Open(name)
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	return string(data), err
}

// do are changes of each kind.
var do = []struct {
	name   string
	change func(v *Volume) error
}{
	{"a file", func(v *Volume) error { return create(v, "dir/local_7+3.conf", 700) }},
	{"an empty file", func(v *Volume) error { return create(v, "empty", 0) }},
	{"a large file", func(v *Volume) error { return create(v, "dir/initramfs.zst", 15_000) }},
	{"a folder", func(v *Volume) error { return v.Mkdir("dir/7-0123456789abcdef") }},
	{"a file in it", func(v *Volume) error { return create(v, "dir/7-0123456789abcdef/vmlinuz", 513) }},
	{"a removed file", func(v *Volume) error { return v.Remove("dir/old-file.conf") }},
	{"a place for a name again", func(v *Volume) error {
		return create(v, "dir/a long name of sixty characters and so in five parts.txt", 1)
	}},
	{"a removed large file", func(v *Volume) error { return v.Remove("dir/initramfs.zst") }},
	{"a removed folder", func(v *Volume) error {
		return errors.Join(v.Remove("dir/7-0123456789abcdef/vmlinuz"), v.Remove("dir/7-0123456789abcdef"))
	}},
}

func create(v *Volume, name string, size int) error {
	return v.Create(name, int64(size), strings.NewReader(content(size)))
}

func TestOtherProgramsReadEachChange(t *testing.T) {
	d := newDisk(t, map[string]string{"dir/old-file.conf": content(9000), "keep": "as it was"})
	for _, step := range do {
		if err := step.change(d.open(t)); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		d.fsck(t)
	}
	image := d.save(t)
	for name, size := range map[string]int{"dir/local_7+3.conf": 700, "dir/a long name of sixty characters and so in five parts.txt": 1, "empty": 0} {
		if got := must(t, "mtype", "-i", image, "::/"+name); got != content(size) {
			t.Errorf("mtype %s: %.80q", name, got)
		}
	}
	if got := must(t, "mdir", "-b", "-i", image, "::/dir"); strings.Count(got, "\n") != 2 {
		t.Errorf("mdir: %s", got)
	}
}

// Each change is cut after each sector that it writes. Of the writes since the last sync, one may also be
// lost although later ones are not.
func TestAPowerCutLeavesTheFilesOfBefore(t *testing.T) {
	base := newDisk(t, map[string]string{"dir/old-file.conf": content(9000), "keep": "as it was"})
	for _, step := range do {
		before := &disk{data: slices.Clone(base.data)}
		names := list(t, before.open(t))
		base.log = nil
		if err := step.change(base.open(t)); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		after := list(t, base.open(t))
		for cut := range len(base.log) + 1 {
			for _, lost := range lostWrites(base.log[:cut]) {
				d := &disk{data: slices.Clone(before.data)}
				d.replay(base.log[:cut], lost)
				checkCut(t, fmt.Sprintf("%s, cut after %d, without %d", step.name, cut, lost), d, names, after, step.change, cut%16 == 0)
			}
		}
		t.Logf("%s: %d writes", step.name, len(base.log))
	}
}

// lostWrites returns -1 for none, and a write since the last sync.
func lostWrites(log []write) []int {
	from := 0
	for i, w := range log {
		if w.data == nil {
			from = i + 1
		}
	}
	if from >= len(log)-1 {
		return []int{-1}
	}
	return []int{-1, from + rand.IntN(len(log)-from)}
}

func (d *disk) replay(log []write, lost int) {
	for i, w := range log {
		if w.data != nil && i != lost {
			copy(d.data[w.at:], w.data)
		}
	}
}

// list returns the content of all files by path.
func list(t *testing.T, v *Volume) map[string]string {
	t.Helper()
	all := map[string]string{}
	var visit func(dir string)
	visit = func(dir string) {
		entries, err := v.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			name := filepath.Join(dir, e.Name)
			if e.IsDir {
				visit(name)
			} else if all[name], err = read(v, name); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	visit(".")
	return all
}

func checkCut(t *testing.T, what string, d *disk, before, after map[string]string, change func(*Volume) error, judge bool) {
	t.Helper()
	v, err := Open(d, int64(len(d.data)))
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	for name, got := range list(t, v) {
		if got != before[name] && got != after[name] {
			t.Fatalf("%s: %s is damaged", what, name)
		}
	}
	for name, text := range before {
		if got, err := read(v, name); after[name] == text && (err != nil || got != text) {
			t.Fatalf("%s: %s: %v", what, name, err)
		}
	}
	if err := change(v); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%s: again: %v", what, err)
	}
	v = d.open(t)
	if err := create(v, "next", 5); err != nil { // mends what is left
		t.Fatalf("%s: the next file: %v", what, err)
	}
	if judge {
		d.fsck(t)
	}
}

func TestAFolderGrows(t *testing.T) {
	d := newDisk(t, nil)
	v := d.open(t)
	for i := range 90 {
		if err := create(v, fmt.Sprintf("dir/a rather long name, number %d.conf", i), 3); err != nil {
			t.Fatal(err)
		}
	}
	d.fsck(t)
	if got, err := v.ReadDir("dir"); err != nil || len(got) != 90 {
		t.Errorf("%d files, %v", len(got), err)
	}
}

func TestAFullFilesystemIsNotChanged(t *testing.T) {
	d := newDisk(t, map[string]string{"keep": "as it was"})
	before := slices.Clone(d.data)
	v := d.open(t)
	if err := v.Create("dir/large", v.Free()+1, strings.NewReader("")); !errors.Is(err, ErrFull) {
		t.Errorf("got %v", err)
	}
	if !bytes.Equal(before, d.data) {
		t.Error("it was changed")
	}
	if err := v.Create("keep", 1, strings.NewReader("x")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a file twice: %v", err)
	}
	if err := v.Remove("none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := v.Create("keep/x", 1, strings.NewReader("x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

// A folder that has every short name of a long one ends the search for another.
func TestAFolderWithEveryShortName(t *testing.T) {
	var f folder
	for range maxShort - 1 {
		short, err := f.newShort("default_7+3.conf")
		if err != nil {
			t.Fatal(err)
		}
		f.entries = append(f.entries, Entry{short: short})
	}
	if short, err := f.newShort("default_7+3.conf"); !errors.Is(err, ErrLayout) {
		t.Errorf("%s, %v", short, err)
	}
}

// A device that answers otherwise the second time does not end the program.
func TestADeviceThatChangesItsAnswer(t *testing.T) {
	d := newDisk(t, map[string]string{"keep": "as it was"})
	v := d.open(t)
	at := bytes.Index(d.data, []byte("KEEP       "))
	d.data[at+30] = 9 // more than 512 KiB
	if got, err := read(v, "keep"); !errors.Is(err, ErrLayout) {
		t.Errorf("%.40q, %v", got, err)
	}
}

func TestAFileThatFATCannotHave(t *testing.T) {
	v := newDisk(t, nil).open(t)
	if err := v.Create("large", 1<<32, strings.NewReader("")); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "4 GiB") {
		t.Errorf("got %v", err)
	}
}

// A reader of a damaged filesystem ends, and changes nothing.
func FuzzOpen(f *testing.F) {
	f.Add([]byte("\xff\xff\xff\x0f"), uint32(0), uint32(0))
	var base []byte
	f.Fuzz(func(t *testing.T, patch []byte, at, again uint32) {
		if base == nil {
			base = newDisk(t, map[string]string{"dir/old-file.conf": content(9000)}).data
		}
		d := &disk{data: slices.Clone(base)}
		const head = 32*sector + 2*272*1024 + 64*sector // boot sector, FAT, folders
		for _, where := range []uint32{at % head, again % head} {
			copy(d.data[where:], patch)
		}
		v, err := Open(d, int64(len(d.data)))
		if err == nil {
			_, _ = read(v, "dir/old-file.conf")
		}
		if len(d.log) > 0 {
			t.Error("Open writes")
		}
	})
}
