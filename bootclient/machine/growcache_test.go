package machine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/gpt"
	"github.com/phaseboot/phaseboot/internal/looptest"
)

const mebi = 1 << 20

// grownStick attaches a disk of 1 GiB with the table and the cache of an image of 64 MiB.
func grownStick(t *testing.T, table string, flags uint32) (p cachePartition, file string) {
	t.Helper()
	looptest.Need(t)
	file = filepath.Join(t.TempDir(), "stick")
	const start, size = 16 * mebi, 47 * mebi
	script := `PATH=$PATH:/usr/sbin:/sbin; truncate -s 64M "$1"
		mke2fs -q -F -t ext4 -m 0 -L PHASE-CACHE -E offset=16777216,lazy_itable_init=0,lazy_journal_init=0,nodiscard "$1" 48128k
		sgdisk --clear --set-alignment=1 --new=1:2048:32767 --typecode=1:EF00 --new=2:32768:129023 --change-name=2:PHASE-CACHE ` + table + ` "$1"
		truncate -s 1G "$1"`
	if out, err := exec.Command("sh", "-euc", script, "sh", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d := looptest.Attach(t, file, flags|unix.LO_FLAGS_PARTSCAN)
	return cachePartition{device: d.AddPartition(t, 2, start, size), disk: d.Path, number: 2, onBootDisk: true}, file
}

func mountAt(t *testing.T, p cachePartition) string {
	t.Helper()
	dir := t.TempDir()
	if err := mountCache(p.device, dir, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func judge(t *testing.T, tool string, args ...string) {
	t.Helper()
	out, err := exec.Command("sh", append([]string{"-c", `PATH=$PATH:/usr/sbin:/sbin; "$@"`, "sh", tool}, args...)...).CombinedOutput()
	if err != nil || tool == "sgdisk" && (!bytes.Contains(out, []byte("No problems found")) || bytes.Contains(out, []byte("Caution"))) {
		t.Errorf("%s: %v\n%s", tool, err, out)
	}
}

func TestTheCacheGrowsToTheSizeOfTheDisk(t *testing.T) {
	p, file := grownStick(t, "", 0)
	if err := p.growPartition(); err != nil {
		t.Fatal(err)
	}
	if size, err := deviceSize(p.device); err != nil || size != 1023*mebi-16*mebi {
		t.Errorf("the kernel's partition has %d bytes, %v", size, err)
	}
	dir := mountAt(t, p)
	was, is, err := growFileSystem(p.device, dir)
	if mayResize(t) {
		if err != nil || was != 47*mebi || is < 1000*mebi {
			t.Errorf("the file system grew from %d to %d, %v", was, is, err)
		}
		data := bytes.Repeat([]byte("block"), 100*mebi/5)
		if err := os.WriteFile(filepath.Join(dir, "large"), data, 0o600); err != nil { // does not fit the old size
			t.Error(err)
		}
		if was, is, err := growFileSystem(p.device, dir); err != nil || was != is {
			t.Errorf("the next boot: from %d to %d, %v", was, is, err)
		}
	} else if !errors.Is(err, unix.EPERM) || was != is { // TestBootFromTheLANWithNoHint grows one in a machine
		t.Errorf("without the right: from %d to %d, %v", was, is, err)
	}
	if err := p.growPartition(); err != nil { // the next boot has nothing to do
		t.Error(err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	judge(t, "sgdisk", "-v", file)
	judge(t, "e2fsck", "-f", "-n", p.device)
}

// mayResize reports whether this process may resize file systems. Root in a container often may not.
func mayResize(t *testing.T) bool {
	t.Helper()
	header, data := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// The power is cut after the change of the table, or the kernel has an older table: the next boot gives it
// the new size.
func TestTheKernelLearnsTheSizeOfAGrownPartition(t *testing.T) {
	p, _ := grownStick(t, "", 0)
	size, err := deviceSize(p.disk)
	if err != nil {
		t.Fatal(err)
	}
	if err := growTable(p.disk, size, 2); err != nil {
		t.Fatal(err)
	}
	if size, err := deviceSize(p.device); err != nil || size != 47*mebi {
		t.Errorf("%d bytes, %v", size, err)
	}
	mountAt(t, p)
	if err := p.growPartition(); err != nil {
		t.Fatal(err)
	}
	if size, err := deviceSize(p.device); err != nil || size != 1007*mebi {
		t.Errorf("%d bytes, %v", size, err)
	}
}

func TestADiskThatMustNotGrowIsNotWritten(t *testing.T) {
	for name, c := range map[string]struct {
		table string
		flags uint32
		want  error
	}{
		"write-protected":         {"", unix.LO_FLAGS_READ_ONLY, nil},
		"a partition of a person": {"--new=3:129024:129030", 0, gpt.ErrLayout},
	} {
		p, file := grownStick(t, c.table, c.flags)
		before := headAndTail(t, file)
		if err := p.growPartition(); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v", name, err)
		}
		if !bytes.Equal(before, headAndTail(t, file)) {
			t.Errorf("%s: the disk was changed", name)
		}
	}
}

func headAndTail(t *testing.T, file string) []byte {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, 2*mebi)
	_, err1 := io.ReadFull(io.NewSectionReader(f, 0, mebi), data[:mebi])
	_, err2 := io.ReadFull(io.NewSectionReader(f, 1023*mebi, mebi), data[mebi:])
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return data
}

func TestTheSizeOfAnExt4FileSystemIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	mke2fs(t, path, cacheLabel)
	if size, block, err := extSize(path); err != nil || size != mebi || block != 1024 {
		t.Errorf("%d bytes in blocks of %d, %v", size, block, err)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte{0xff}, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := extSize(path); err == nil || !strings.Contains(fmt.Sprint(err), "no ext4") {
		t.Errorf("got %v", err)
	}
}
