package gpt

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sgdisk runs the tool that everyone has for such tables.
func sgdisk(t *testing.T, args ...string) string {
	t.Helper()
	tool, err := exec.LookPath("sgdisk")
	if err != nil {
		if tool = "/usr/sbin/sgdisk"; exec.Command(tool, "--version").Run() != nil {
			t.Fatal("sgdisk is missing; run: apt-get install gdisk")
		}
	}
	out, err := exec.Command(tool, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("sgdisk %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

const (
	imageSize = 8 * mib
	diskSize  = 12*mib + 3*Sector
)

// stickOf writes the table of phase-image for a disk of image bytes, and enlarges the file to size.
func stickOf(t *testing.T, image, size int64, more ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "stick")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, image)); err != nil {
		t.Fatal(err)
	}
	sgdisk(t, append([]string{
		"--clear", "--set-alignment=1", "--disk-guid=11111111-2222-8333-8444-555555555555",
		"--new=1:2048:8191", "--typecode=1:EF00", "--change-name=1:EFI system partition", "--partition-guid=1:11111111-2222-8333-8444-555555555556",
		fmt.Sprintf("--new=2:8192:%d", (image-mib)/Sector-1), "--typecode=2:8300", "--change-name=2:PHASE-CACHE", "--partition-guid=2:11111111-2222-8333-8444-555555555557",
	},
		append(more, file)...)...)
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	return file
}

// memory is a disk that remembers its writes by sector; each Sync ends a group of them.
type memory struct {
	data   []byte
	groups [][]sectorWrite
}

type sectorWrite struct {
	at   int64
	data []byte
}

func (m *memory) ReadAt(b []byte, at int64) (int, error) {
	return bytes.NewReader(m.data).ReadAt(b, at)
}

func (m *memory) WriteAt(b []byte, at int64) (int, error) {
	var group []sectorWrite
	for i := 0; i < len(b); i += Sector {
		group = append(group, sectorWrite{at + int64(i), slices.Clone(b[i : i+Sector])})
	}
	m.groups = append(m.groups, group)
	return copy(m.data[at:], b), nil
}

func (m *memory) Sync() error { return nil }

func load(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// The result has the bytes that sgdisk writes for the same change.
func TestGrowWritesTheTableOfSgdisk(t *testing.T) {
	for _, size := range []int64{diskSize, imageSize + Sector, imageSize + 2*mib, 10 << 30} {
		file := stickOf(t, imageSize, size)
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		p, err := Grow(f, size, 2)
		if err != nil || !p.Needed || p.Was.Size != imageSize-5*mib || p.Is.Start != 4*mib {
			t.Fatalf("%d bytes: %+v, %v", size, p, err)
		}
		if said := sgdisk(t, "-v", file); !strings.Contains(said, "No problems found") || strings.Contains(said, "Caution") {
			t.Errorf("%d bytes: %s", size, said)
		}
		want := stickOf(t, imageSize, size)
		sgdisk(t, "--move-second-header", want)
		sgdisk(t, "--set-alignment=1", "--delete=2", fmt.Sprintf("--new=2:8192:%d", (p.Is.Start+p.Is.Size)/Sector-1), "--typecode=2:8300",
			"--change-name=2:PHASE-CACHE", "--partition-guid=2:11111111-2222-8333-8444-555555555557", want)
		for _, from := range []int64{0, size - mib} {
			if out, err := exec.Command("cmp", fmt.Sprintf("--ignore-initial=%d", from), fmt.Sprintf("--bytes=%d", mib), file, want).CombinedOutput(); err != nil {
				t.Errorf("%d bytes: %s", size, out)
			}
		}
		if p, err := Grow(f, size, 2); err != nil || p.Needed || p.Is != p.Was {
			t.Errorf("%d bytes, again: %+v, %v", size, p, err)
		}
	}
}

// The power is cut after each sector, and sectors of one group may be written in any order. The first
// table is valid at each moment, with the old partition or the new one, and the next boot completes it.
func TestAPowerCutLeavesAValidTable(t *testing.T) {
	before := load(t, stickOf(t, imageSize, diskSize))
	whole := &memory{data: slices.Clone(before)}
	plan, err := Grow(whole, diskSize, 2)
	if err != nil {
		t.Fatal(err)
	}
	check := func(name string, state []byte) {
		p, err := Look(bytes.NewReader(state), diskSize, 2)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if p.Was != plan.Was && p.Was != plan.Is {
			t.Fatalf("%s: partition %+v", name, p.Was)
		}
		again := &memory{data: state}
		if _, err := Grow(again, diskSize, 2); err != nil || !bytes.Equal(state, whole.data) {
			t.Fatalf("%s: the next boot does not complete it: %v", name, err)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	cuts := 0
	for g, group := range whole.groups {
		state := func() []byte {
			s := slices.Clone(before)
			for _, done := range whole.groups[:g] {
				for _, w := range done {
					copy(s[w.at:], w.data)
				}
			}
			return s
		}
		for n := range group {
			s := state()
			for _, w := range group[:n+1] {
				copy(s[w.at:], w.data)
			}
			check(fmt.Sprintf("group %d, %d sectors", g, n+1), s)
			cuts++
		}
		for range 4 {
			s := state()
			for _, w := range group {
				if random.IntN(2) == 0 {
					copy(s[w.at:], w.data)
				}
			}
			check(fmt.Sprintf("group %d, some sectors", g), s)
			cuts++
		}
	}
	if len(whole.groups) != 8 || cuts < 100 {
		t.Errorf("%d groups, %d cuts", len(whole.groups), cuts)
	}
}

func TestATableOfAnotherLayoutIsNotChanged(t *testing.T) {
	change := func(at int64, b byte) func([]byte) { return func(disk []byte) { disk[at] ^= b } }
	for name, c := range map[string]struct {
		image, size int64
		more        []string
		number      int
		change      func(disk []byte)
	}{
		"damaged header":           {imageSize, diskSize, nil, 2, change(Sector+60, 1)},
		"damaged entries":          {imageSize, diskSize, nil, 2, change(2*Sector+60, 1)},
		"no table":                 {imageSize, diskSize, nil, 2, func(disk []byte) { clear(disk[:headSize]) }},
		"bytes after the table":    {imageSize, diskSize, nil, 2, change(spareLBA*Sector+5, 1)},
		"not the last partition":   {imageSize, diskSize, nil, 1, nil},
		"no such partition":        {imageSize, diskSize, nil, 3, nil},
		"a partition behind":       {imageSize, diskSize, []string{"--new=3:14336:14346"}, 2, nil},
		"a partition in the gap":   {imageSize, diskSize, []string{"--new=3:34:60"}, 2, nil},
		"a smaller disk":           {imageSize, imageSize - mib/2, nil, 2, nil},
		"a larger number of entry": {imageSize, diskSize, nil, 129, nil},
		"another name":             {imageSize, diskSize, []string{"--change-name=2:data"}, 2, nil},
		"another type":             {imageSize, diskSize, []string{"--typecode=2:8200"}, 2, nil},
		"a system before it":       {imageSize, diskSize, []string{"--typecode=1:0700"}, 2, nil},
		"a hybrid table":           {imageSize, diskSize, []string{"--hybrid=1"}, 2, nil},
		"number 0":                 {imageSize, diskSize, nil, 0, nil},
	} {
		disk := load(t, stickOf(t, c.image, c.size, c.more...))
		if c.change != nil {
			c.change(disk)
		}
		was := slices.Clone(disk)
		if _, err := Grow(&memory{data: disk}, c.size, c.number); !errors.Is(err, ErrLayout) || !bytes.Equal(was, disk) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzLook(f *testing.F) {
	head := make([]byte, headSize)
	copy(head[Sector:], "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	f.Add(head, int64(diskSize), 2)
	f.Fuzz(func(t *testing.T, disk []byte, size int64, number int) {
		if len(disk) > 2<<20 || size < headSize || size > 1<<50 {
			return
		}
		padded := append(disk, make([]byte, headSize)...)
		if p, err := Look(bytes.NewReader(padded), size, number); err == nil && p.Is.Start+p.Is.Size > size {
			t.Errorf("%+v", p)
		}
	})
}
