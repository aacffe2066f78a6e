//go:build machine

package e2e

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/manifest"
)

// A diskWrite is a write of a machine to its disk.
type diskWrite struct {
	at   int64
	data []byte
}

// blklogwrites is QEMU's block driver that logs each write, in the format of Linux's dm-log-writes: a
// superblock, then for each entry a sector of numbers and its data.
func readWriteLog(t *testing.T, path string) (writes []diskWrite) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const sector, magic, discard = 512, 0x6a736677736872, 4
	var head [sector]byte
	read := func(at int64, b []byte) {
		if _, err := f.ReadAt(b, at); err != nil && err != io.EOF {
			t.Fatal(err)
		}
	}
	read(0, head[:])
	little := binary.LittleEndian
	if little.Uint64(head[:]) != magic || little.Uint32(head[24:]) != sector {
		t.Fatalf("%s: no log of writes: % x", path, head[:32])
	}
	at := int64(sector)
	for range little.Uint64(head[16:]) {
		read(at, head[:])
		at += sector
		size := int64(little.Uint64(head[8:])) * sector
		if little.Uint64(head[16:])&discard != 0 || size == 0 {
			continue
		}
		data := make([]byte, size)
		read(at, data)
		at += size
		writes = append(writes, diskWrite{int64(little.Uint64(head[:])) * sector, data})
	}
	return writes
}

// loggedDisk returns the arguments of QEMU for a disk whose writes are logged.
func loggedDisk(disk, log string) []string {
	return []string{
		"-blockdev", "driver=file,node-name=stick,filename=" + disk, "-blockdev", "driver=file,node-name=log,filename=" + log,
		"-blockdev", "driver=blklogwrites,node-name=logged,file=stick,log=log,log-super-update-interval=1",
		"-device", "virtio-blk-pci,drive=logged,bootindex=1",
	}
}

// apply writes to a partition that begins at an offset of the disk. It reports whether the write was there.
func (w diskWrite) apply(t *testing.T, partition *os.File, offset, size int64) bool {
	t.Helper()
	if w.at < offset || w.at+int64(len(w.data)) > offset+size {
		return false
	}
	if _, err := partition.WriteAt(w.data, w.at-offset); err != nil {
		t.Fatal(err)
	}
	return true
}

// remembered returns the release of the saved metadata in a file system, as the next boot reads it.
func remembered(t *testing.T, partition string) string {
	t.Helper()
	dir := t.TempDir()
	copied := filepath.Join(dir, "copy")
	must(t, "cp", "--sparse=always", partition, copied)
	// as a mount does: the journal is replayed, and nothing else is repaired
	if out, err := exec.Command("e2fsck", "-p", "-E", "journal_only", copied).CombinedOutput(); err != nil && err.(*exec.ExitError).ExitCode() > 1 {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
	must(t, "debugfs", "-R", "rdump /trust "+dir, copied)
	v, err := manifest.LastGood(t.Context(), manifest.Policy{
		Root: readFile(t, fx.path("repo/root.json")), Channel: "stable", Arch: "x86_64", Now: time.Now(),
		State: manifest.OpenStateReadOnly(filepath.Join(dir, "trust")),
	})
	if err != nil {
		return err.Error()
	}
	return v.Release().Version
}

// The power is cut after each write of a boot that saves the metadata of a newer release. Whatever the cut
// leaves, the machine remembers the older release or the newer one: never none, and never the older one
// after the newer one. One of the cuts is booted: an older release is refused, the newest one starts.
func TestMachinePowerCutAtEachWriteKeepsTheRollbackMemory(t *testing.T) {
	t.Parallel()
	s, first, second := newStick(t, ""), publication(t), publication(t)
	s.serveMirror(first)
	m := s.powerOn(s.disk)
	m.waitFor([]string{"] kexec: starting", "Linux version"}, refused)
	m.powerOff()

	second.add(t, "2026.12-next")
	s.serveMirror(second)
	before, log, blank := s.disk+".before", filepath.Join(s.dir, "writes"), filepath.Join(s.dir, "blank.img")
	must(t, "cp", "--sparse=always", s.disk, before)
	must(t, "truncate", "-s", "4G", log)
	must(t, "sh", "-c", `head -c 1048576 /dev/zero >"$1"`, "sh", blank)
	m = s.powerOn(blank, loggedDisk(s.disk, log)...)
	m.waitFor([]string{"] resolve: stable/x86_64 release 2026.12-next", "] kexec: starting", "Linux version"}, refused)
	m.powerOff()

	offset, size := cachePartition(t, s.disk)
	partition := filepath.Join(s.dir, "partition")
	must(t, "sh", "-ec", `dd if="$1" of="$2" bs=1M iflag=skip_bytes,count_bytes conv=sparse skip="$3" count="$4" status=none; truncate -s "$4" "$2"`, "sh", before, partition, fmt.Sprint(offset), fmt.Sprint(size))
	f, err := os.OpenFile(partition, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found := map[string]int{remembered(t, partition): 1}
	writes := readWriteLog(t, log)
	last, cuts, turn := release, 0, -1
	for i, w := range writes {
		if !w.apply(t, f, offset, size) {
			continue
		}
		cuts++
		got := remembered(t, partition)
		found[got]++
		switch {
		case got == last:
		case got == "2026.12-next" && last == release:
			last, turn = got, i
		default:
			t.Fatalf("after write %d of %d: %s, before %s", i+1, len(writes), got, last)
		}
	}
	t.Logf("%d writes to the cache partition; the releases after them: %v", cuts, found)
	if cuts < 10 || turn < 0 {
		t.Fatal("the newer release was not saved")
	}

	// A cut in the middle of the writes that save the newer release, and one right after them.
	for name, tt := range map[string]struct {
		writes int
		serves *published
		marks  []string
		never  string
	}{
		"before the turn the newest release starts": {turn, second, []string{"] resolve: stable/x86_64 release 2026.12-next", jump}, refused},
		"after the turn the older one is refused":   {turn + 1, first, []string{refused, "older than version ", "which was seen before", menuShown}, jump},
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			disk := filepath.Join(t.TempDir(), "cut.img")
			must(t, "cp", "--sparse=always", before, disk)
			f, err := os.OpenFile(disk, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for _, w := range writes[:tt.writes] {
				if _, err := f.WriteAt(w.data, w.at); err != nil {
					t.Fatal(err)
				}
			}
			s.serveMirror(tt.serves)
			m := s.powerOn(disk)
			m.waitFor(tt.marks, tt.never)
			m.powerOff()
		})
	}
}
