package bootset

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/internal/fat32"
)

// A disk is a partition in memory. It remembers the sectors that are written; a nil one is a sync.
type disk struct {
	data []byte
	log  []sector
}

type sector struct {
	at   int64
	data []byte
}

func (d *disk) ReadAt(p []byte, at int64) (int, error) {
	return bytes.NewReader(d.data).ReadAt(p, at)
}

func (d *disk) WriteAt(p []byte, at int64) (int, error) {
	for i := 0; i < len(p); i += 512 {
		d.log = append(d.log, sector{at + int64(i), slices.Clone(p[i : i+512])})
	}
	return copy(d.data[at:], p), nil
}

func (d *disk) Sync() error {
	d.log = append(d.log, sector{})
	return nil
}

func entryText(mode string) string {
	return fmt.Sprintf("title    Mode %s\nsort-key phase-1\narchitecture x64\nlinux    /phase/vmlinuz\ninitrd   /phase/initramfs.zst\noptions  quiet phase.mode=%s\n", mode, mode)
}

var builtFiles = map[string]string{
	"loader/loader.conf":           "timeout 1\ndefault local[._]*\n",
	"loader/entries/local.conf":    entryText("local"),
	"loader/entries/internet.conf": entryText("internet"),
	"loader/entries/private.conf":  entryText("private"),
	"phase/vmlinuz":                strings.Repeat("kernel 0", 500),
	"phase/initramfs.zst":          strings.Repeat("initramfs 0", 700),
}

// newStick makes an EFI system partition with mkfs.vfat and mtools.
func newStick(t *testing.T, files map[string]string) *disk {
	t.Helper()
	image := filepath.Join(t.TempDir(), "esp")
	must(t, "truncate", "-s", "34M", image)
	must(t, "mkfs.vfat", "--invariant", "-F", "32", "-s", "1", image)
	must(t, "mmd", "-i", image, "::/loader", "::/loader/entries", "::/phase")
	for name, text := range files {
		local := filepath.Join(t.TempDir(), "local")
		if err := os.WriteFile(local, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		must(t, "mcopy", "-o", "-i", image, local, "::/"+name)
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

func (d *disk) open(t *testing.T) *Stick {
	t.Helper()
	s, err := Open(d, int64(len(d.data)), "x86_64")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (d *disk) fsck(t *testing.T) {
	t.Helper()
	must(t, "fsck.fat", "-n", d.save(t))
}

func (d *disk) save(t *testing.T) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "esp")
	if err := os.WriteFile(image, d.data, 0o600); err != nil {
		t.Fatal(err)
	}
	return image
}

// entries lists the boot entries and folders as mtools shows them.
func (d *disk) entries(t *testing.T) string {
	t.Helper()
	image := d.save(t)
	var names []string
	for _, dir := range []string{"::/loader/entries", "::/phase"} {
		for line := range strings.Lines(must(t, "mdir", "-b", "-i", image, dir)) {
			names = append(names, strings.Trim(filepath.Base(strings.TrimSpace(line)), "/"))
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func fileOf(text string) File {
	return File{strings.NewReader(text), int64(len(text)), fmt.Sprintf("%x", sha256.Sum256([]byte(text)))}
}

// update is the boot set of a release of a number.
func update(number, running int64) Update {
	return Update{
		Number: number, Release: fmt.Sprintf("%d.0", number), SignedAt: time.Unix(1.8e9, 0), Running: running, Modes: []string{"local", "internet"},
		Kernel: fileOf(strings.Repeat(fmt.Sprint("kernel ", number), 600)), Initramfs: fileOf(strings.Repeat(fmt.Sprint("initramfs ", number), 800)),
	}
}

// rename is what systemd-boot does when it starts an entry that is counted.
func (d *disk) rename(t *testing.T, from, to string) {
	t.Helper()
	image := d.save(t)
	must(t, "mren", "-i", image, "::/loader/entries/"+from, "::/loader/entries/"+to)
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	d.data = data
}

const built = "initramfs.zst internet.conf local.conf private.conf vmlinuz"

// A mode that may not write keeps the set of before until the new one is blessed: systemd-boot would count its
// starts on the stick.
func TestABootSetIsTriedKeptAndReplaced(t *testing.T) {
	d := newStick(t, builtFiles)
	id := func(n int64) string { return update(n, 0).ID().String() }
	for _, step := range []struct {
		what string
		do   func(s *Stick) error
		want string
	}{
		{"a new set", func(s *Stick) error { return s.Write(context.Background(), update(7, 0)) }, id(7) + " initramfs.zst internet.conf internet_7+3.conf local.conf local_7+3.conf private.conf vmlinuz"},
		{"it has started a release", func(s *Stick) error { return s.Bless(7) }, id(7) + " initramfs.zst internet.conf internet_7.conf local.conf local_7.conf private.conf private_7.conf vmlinuz"},
		{"the next one", func(s *Stick) error { return s.Write(context.Background(), update(9, 7)) }, id(7) + " " + id(9) + " initramfs.zst internet.conf internet_7.conf internet_9+3.conf local.conf local_7.conf local_9+3.conf private.conf private_7.conf vmlinuz"},
		{"it was not started, and is replaced", func(s *Stick) error { return s.Write(context.Background(), update(10, 7)) }, id(10) + " " + id(7) + " initramfs.zst internet.conf internet_10+3.conf internet_7.conf local.conf local_10+3.conf local_7.conf private.conf private_7.conf vmlinuz"},
		{"it has started a release", func(s *Stick) error { return s.Bless(10) }, id(10) + " " + id(7) + " initramfs.zst internet.conf internet_10.conf internet_7.conf local.conf local_10.conf local_7.conf private.conf private_10.conf private_7.conf vmlinuz"},
		{"the oldest one goes", func(s *Stick) error { return s.Write(context.Background(), update(12, 10)) }, id(10) + " " + id(12) + " initramfs.zst internet.conf internet_10.conf internet_12+3.conf local.conf local_10.conf local_12+3.conf private.conf private_10.conf vmlinuz"},
	} {
		if err := step.do(d.open(t)); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		d.fsck(t)
		if got := d.entries(t); got != step.want {
			t.Fatalf("%s:\n got %s\nwant %s", step.what, got, step.want)
		}
	}
	d.rename(t, "local_12+3.conf", "local_12+2-1.conf")
	if set, _ := d.open(t).Set(12); set.Words() != "on trial, 2 of 3 tries left" {
		t.Errorf("of two modes one was started: %s", set.Words())
	}
	d.rename(t, "local_12+2-1.conf", "local_12+0-3.conf")
	d.rename(t, "internet_12+3.conf", "internet_12+0-3.conf")
	if set, _ := d.open(t).Set(12); set.Words() != "it has started no release in 3 tries" {
		t.Errorf("no tries left: %s", set.Words())
	}
}

func TestAnEntryIsTheBuiltOneWithOtherFiles(t *testing.T) {
	d := newStick(t, builtFiles)
	if err := d.open(t).Write(context.Background(), update(7, 0)); err != nil {
		t.Fatal(err)
	}
	folder := update(7, 0).ID().String()
	want := "title    Mode local (boot set 7, release 7.0)\nsort-key phase-1\nversion  7\narchitecture x64\nlinux    /phase/" + folder + "/vmlinuz\ninitrd   /phase/" + folder + "/initramfs.zst\noptions  quiet phase.mode=local\n"
	image := d.save(t)
	if got := must(t, "mtype", "-i", image, "::/loader/entries/local_7+3.conf"); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if got := must(t, "mtype", "-i", image, "::/phase/"+folder+"/vmlinuz"); got != strings.Repeat("kernel 7", 600) {
		t.Errorf("kernel: %.40q", got)
	}
}

func TestAStickThatMustNotBeRenewedIsNotChanged(t *testing.T) {
	same := update(8, 0)
	same.Kernel, same.Initramfs = fileOf(builtFiles["phase/vmlinuz"]), fileOf(builtFiles["phase/initramfs.zst"])
	again := update(7, 0)
	again.Number, again.Release = 8, "8.0"
	large := update(8, 0)
	large.Kernel.Size = 40 << 20
	none := update(8, 0)
	none.Modes = []string{"lab"}
	wrong := update(8, 0)
	wrong.Initramfs.SHA256 = wrong.Kernel.SHA256
	for name, c := range map[string]struct {
		u    Update
		want error
	}{
		"the set that it was built with":   {same, ErrUpToDate},
		"a set that it has":                {again, ErrUpToDate},
		"a set of an older release":        {update(6, 0), ErrOlder},
		"no room":                          {large, fat32.ErrFull},
		"no mode may write":                {none, ErrNoWriter},
		"other bytes than the signed ones": {wrong, nil},
	} {
		d := newStick(t, builtFiles)
		if err := d.open(t).Write(context.Background(), update(7, 0)); err != nil {
			t.Fatal(err)
		}
		before := d.entries(t)
		if err := d.open(t).Write(context.Background(), c.u); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: got %v", name, err)
		}
		if got := d.entries(t); name != "other bytes than the signed ones" && got != before {
			t.Errorf("%s: got %s", name, got)
		}
		d.fsck(t)
	}
}

func TestAnInterruptedRenewalIsUndone(t *testing.T) {
	d := newStick(t, builtFiles)
	ctx, cancel := context.WithCancel(context.Background())
	u := update(7, 0)
	u.Kernel.ReaderAt = readerAt(func(p []byte, at int64) (int, error) {
		cancel()
		return update(7, 0).Kernel.ReadAt(p, at)
	})
	if err := d.open(t).Write(ctx, u); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if got := d.entries(t); got != built {
		t.Errorf("got %s", got)
	}
	d.fsck(t)
}

type readerAt func(p []byte, at int64) (int, error)

func (r readerAt) ReadAt(p []byte, at int64) (int, error) { return r(p, at) }

func TestAStickThatNothingCountsIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		menu string
		want string
	}{
		"a menu of before":  {"timeout 1\ndefault local.conf\n", "before sticks could be renewed"},
		"no menu, for GRUB": {"", "only under systemd-boot"},
	} {
		files := map[string]string{}
		for name, text := range builtFiles {
			files[name] = text
		}
		if files[MenuFile] = c.menu; c.menu == "" {
			delete(files, MenuFile)
		}
		d := newStick(t, files)
		if _, err := Open(d, int64(len(d.data)), "x86_64"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := Open(newStick(t, builtFiles), 34<<20, "arm64"); err == nil {
		t.Error("a stick of another architecture is opened")
	}
}

// The power is cut after each sector of a write and of a bless. Of the sectors since the last sync, one may be lost
// although later ones are not. The stick always boots: the sets of before are whole, and each entry names a whole set.
// The next renewal completes the work.
func TestAPowerCutLeavesAStickThatBoots(t *testing.T) {
	d := newStick(t, builtFiles)
	if err := errors.Join(d.open(t).Write(context.Background(), update(5, 0)), d.open(t).Bless(5)); err != nil {
		t.Fatal(err)
	}
	if err := d.open(t).Write(context.Background(), update(6, 5)); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name string
		do   func(s *Stick) error
	}{
		{"write", func(s *Stick) error { return s.Write(context.Background(), update(7, 5)) }},
		{"bless", func(s *Stick) error { return s.Bless(7) }},
	} {
		before := slices.Clone(d.data)
		d.log = nil
		if err := step.do(d.open(t)); err != nil {
			t.Fatal(err)
		}
		after := d.entries(t)
		for cut := range len(d.log) + 1 {
			c := &disk{data: slices.Clone(before)}
			lost := -1
			if cut%2 == 1 {
				lost = lostSector(d.log[:cut])
			}
			for i, w := range d.log[:cut] {
				if w.data != nil && i != lost {
					copy(c.data[w.at:], w.data)
				}
			}
			checkBoots(t, fmt.Sprintf("%s, cut after %d, without %d", step.name, cut, lost), c)
			if err := step.do(c.open(t)); err != nil && !errors.Is(err, ErrUpToDate) {
				t.Fatalf("%s, cut after %d: again: %v", step.name, cut, err)
			}
			if err := c.open(t).Mend(); err != nil {
				t.Fatal(err)
			}
			if cut%10 == 0 {
				c.fsck(t)
				if got := c.entries(t); step.name == "bless" && got != after {
					t.Fatalf("bless again: got %s, want %s", got, after)
				}
			}
		}
		t.Logf("%s: %d sectors and syncs", step.name, len(d.log))
	}
}

func lostSector(log []sector) int {
	from := 0
	for i, w := range log {
		if w.data == nil {
			from = i + 1
		}
	}
	if from >= len(log) {
		return -1
	}
	return from + rand.IntN(len(log)-from)
}

// checkBoots reads a partition as firmware and systemd-boot do.
func checkBoots(t *testing.T, what string, d *disk) {
	t.Helper()
	s := d.open(t)
	if len(s.built) != 3 {
		t.Fatalf("%s: %d entries of the built set", what, len(s.built))
	}
	content := func(name string) string {
		f, err := s.vol.Open(name)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		data, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
		if err != nil {
			t.Fatalf("%s: %s: %v", what, name, err)
		}
		return string(data)
	}
	for name, text := range builtFiles {
		if content(name) != text {
			t.Fatalf("%s: %s is damaged", what, name)
		}
	}
	if set, ok := s.Set(5); !ok || !set.Blessed() || len(set.Names) != 3 {
		t.Fatalf("%s: the set that is kept is %+v", what, set)
	}
	for _, set := range s.Sets() {
		u := update(set.Number, 0)
		for name, want := range map[string]File{KernelFile: u.Kernel, InitramfsFile: u.Initramfs} {
			if got := content(s.folder(set.ID) + "/" + name); fmt.Sprintf("%x", sha256.Sum256([]byte(got))) != want.SHA256 {
				t.Fatalf("%s: set %d: %s is damaged", what, set.Number, name)
			}
		}
	}
}

func TestNamesAreReadBack(t *testing.T) {
	for _, name := range []string{"local.conf", "local_7.conf", "local_7+3.conf", "local_7+2-1.conf", "lab-2_arm64_9007199254740991+0-3.conf", "local_arm64.conf"} {
		if n, ok := ParseName(name); !ok || n.String() != name {
			t.Errorf("%s: %+v, %v", name, n, ok)
		}
	}
	for _, name := range []string{"local_07.conf", "local_7+.conf", "local_7+3", "local+3.conf", "local_x86.conf", "LOCAL.conf", "local_7+3-1-1.conf", "local_7+03.conf", "local_7+3-0.conf", "a/b.conf"} {
		if n, ok := ParseName(name); ok {
			t.Errorf("%s: %+v", name, n)
		}
	}
}

func TestTheSettingsOfAnInitramfsAreRead(t *testing.T) {
	data := initramfs(t, "etc/phase/role", "boot\n", "etc/phase/root.json", "{}", "etc/phase/modes/lab.json", "x", "init", "program")
	got, err := Settings(bytes.NewReader(data), int64(len(data)))
	if err != nil || string(got["role"]) != "boot\n" || string(got["root.json"]) != "{}" || len(got) != 2 {
		t.Errorf("%q, %v", got, err)
	}
	for _, cut := range []int{0, 10, len(data) / 2, len(data) - 1} {
		if _, err := Settings(bytes.NewReader(data), int64(cut)); !errors.Is(err, ErrInitramfs) {
			t.Errorf("cut after %d bytes: %v", cut, err)
		}
	}
}

// initramfs makes an archive with cpio and zstd of names and contents.
func initramfs(t testing.TB, files ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		name := filepath.Join(dir, files[i])
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(files[i+1]), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("sh", "-euc", "find . | cpio --quiet -o -H newc | zstd -q")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v; install cpio and zstd", err)
	}
	return out
}

func FuzzSettings(f *testing.F) {
	f.Add(initramfs(f, "etc/phase/role", "boot\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Settings(bytes.NewReader(data), int64(len(data)))
		if (err == nil) != (got != nil) || err != nil && !errors.Is(err, ErrInitramfs) {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// What is read as the name of an entry is written as the same name.
func FuzzParseName(f *testing.F) {
	f.Add("local_arm64_7+2-1.conf")
	f.Fuzz(func(t *testing.T, name string) {
		n, ok := ParseName(name)
		if !ok {
			return
		}
		if n.String() != name {
			t.Errorf("%q: %+v, then %q", name, n, n)
		}
	})
}
