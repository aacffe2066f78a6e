package imagebuild

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/imagebuild/diskformat"
)

// sharedDir has the images of shared. TestMain removes it.
var sharedDir string

func TestMain(m *testing.M) {
	var err error
	if sharedDir, err = os.MkdirTemp("", "phase-imagebuild-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(sharedDir)
	if code == 0 && !testing.Short() && flag.Lookup("test.run").Value.String() == "" {
		code = compareVerdicts()
	}
	os.Exit(code)
}

// The rows and columns of the table of formats and judges in docs/FORMATS.md.
var (
	judged = []string{"raw", "qcow2", "vmdk", "vhdx", "parallels", "iso", "esp", "uki x86_64", "uki arm64"}
	judges = []string{"sgdisk", "fsck.fat", "e2fsck", "check", "compare", "xorriso", "elements", "objdump", "verify"}
)

// verdicts has the judges that found no error, by format.
var verdicts = map[string][]string{}

// passed notes that the judges of a format found no error.
func passed(t *testing.T, format string, by ...string) {
	if !t.Failed() {
		verdicts[format] = append(verdicts[format], by...)
	}
}

// verdictTable returns the table of formats and judges.
func verdictTable() string {
	var w strings.Builder
	line := func(name string, cell func(judge string) string) {
		text := fmt.Sprintf("%-11s", name)
		for _, j := range judges {
			text += fmt.Sprintf(" %-8s", cell(j))
		}
		fmt.Fprintln(&w, strings.TrimRight(text, " "))
	}
	line("", func(judge string) string { return judge })
	for _, format := range judged {
		line(format, func(judge string) string {
			if slices.Contains(verdicts[format], judge) {
				return "ok"
			}
			return "-"
		})
	}
	return w.String()
}

// compareVerdicts returns 1 if docs/FORMATS.md has another table than all tests together gave.
func compareVerdicts() int {
	text, err := os.ReadFile("../docs/FORMATS.md")
	_, table, _ := strings.Cut(string(text), "```formats\n")
	table, _, _ = strings.Cut(table, "```")
	if err == nil && table == verdictTable() {
		return 0
	}
	fmt.Printf("docs/FORMATS.md: the table is not what the tests gave (%v):\n%s", err, verdictTable())
	return 1
}

// shared returns an image that several tests read and none changes. The first call makes it.
func shared(t *testing.T, name string, make func(t *testing.T, b *Builder) string) string {
	t.Helper()
	file := filepath.Join(sharedDir, name)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		judge(t, "cp", "--sparse=always", make(t, testBuilder(t)), file)
	}
	return file
}

// judge runs a program that must find no error, and returns its output.
func judge(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := findTool(name)
	if err != nil {
		path = name
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %q: %v; run: scripts/deps-check.sh --install test\n%s", name, args, err, out)
	}
	return string(out)
}

// judgeRaw lets the tools of each part check a raw disk.
func judgeRaw(t *testing.T, raw string) {
	t.Helper()
	if out := judge(t, "sgdisk", "-v", raw); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk: %s", out)
	}
	esp := filepath.Join(t.TempDir(), "esp")
	if err := extract(esp, minESP, raw, span{firstPartition, minESP}); err != nil {
		t.Fatal(err)
	}
	judge(t, "fsck.fat", "-n", esp)
	judge(t, "e2fsck", "-f", "-n", fmt.Sprintf("%s?offset=%d", raw, firstPartition+minESP))
}

// formatOf makes an image of a raw disk in a folder of its own.
func formatOf(t *testing.T, b *Builder, raw string, format *diskformat.Format) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "vm."+format.Name)
	if format == diskformat.Parallels {
		out = filepath.Join(filepath.Dir(out), "vm.pvm")
	}
	if _, err := b.ConvertDisk(t.Context(), raw, format, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// The table of formats and judges: each format holds the same disk, without an error in any part.
func TestEachFormatPassesItsJudges(t *testing.T) {
	b := testBuilder(t)
	raw := shared(t, "disk.img", validDisk)
	judgeRaw(t, raw)
	want, err := b.Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	passed(t, "raw", "sgdisk", "fsck.fat", "e2fsck", "verify")
	for _, format := range diskformat.Formats {
		image := formatOf(t, b, raw, format)
		path, _ := imageFile(image)
		judge(t, "qemu-img", "check", "-f", format.Name, path)
		judge(t, "qemu-img", "compare", "-f", "raw", "-F", format.Name, raw, path)
		back := filepath.Join(t.TempDir(), "back.img")
		judge(t, "qemu-img", "convert", "-f", format.Name, "-O", "raw", path, back)
		judgeRaw(t, back)
		c, err := b.Verify(t.Context(), image)
		if err != nil {
			t.Errorf("%s: %v", format.Name, err)
			continue
		}
		if c.Kind != format.Name || c.DiskSize != want.Size || c.Disk != want.Disk || c.ArchiveSum != want.ArchiveSum || !slices.Equal(c.Checks, want.Checks) || !slices.Equal(c.NotCompared, want.NotCompared) {
			t.Errorf("%s: got %+v, want the contents %+v", format.Name, c, want)
		}
		info, err := os.Stat(path)
		if err != nil || info.Size() > 32*mib {
			t.Errorf("%s has %d bytes, %v", format.Name, info.Size(), err)
		}
		passed(t, format.Name, "check", "compare", "sgdisk", "fsck.fat", "e2fsck", "verify")
	}
}

// An image in its one form may hold a disk that no phase-image made.
func TestAttackADiskInEachFormatThatBootsWhatVerifyDoesNotShow(t *testing.T) {
	b := testBuilder(t)
	valid := shared(t, "disk.img", validDisk)
	for name, at := range map[string]int64{"boot code": 0, "bytes in the gap": 40 * sector, "another copy of the boot sector": firstPartition + 6*sector + 3, "ext4 superblock": firstPartition + minESP + 1024} {
		raw := copyOf(t, valid)
		patch(t, raw, at, []byte(strings.Repeat("Z", 256)))
		for _, format := range diskformat.Formats {
			out := filepath.Join(t.TempDir(), "vm."+format.Name)
			if format == diskformat.Parallels {
				out = filepath.Join(filepath.Dir(out), "vm.hdd")
			}
			if err := b.writeFormat(t.Context(), raw, 300*mib, format, out); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Verify(t.Context(), out); !errors.Is(err, cas.ErrCorrupt) {
				t.Errorf("%s in %s: %v", name, format.Name, err)
			}
		}
	}
}

func TestOutputsThatCannotBecomeADiskAreRefused(t *testing.T) {
	b, dir := testBuilder(t), t.TempDir()
	raw := shared(t, "disk.img", validDisk)
	there := filepath.Join(dir, "there.hdd")
	if err := os.Mkdir(there, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		format *diskformat.Format
		out    string
		want   error
	}{
		{diskformat.Parallels, filepath.Join(dir, "x"), fs.ErrInvalid},
		{diskformat.Parallels, there, fs.ErrInvalid},
		{diskformat.Parallels, filepath.Join(dir, "nowhere", "x.hdd"), fs.ErrNotExist},
		{diskformat.QCOW2, there, fs.ErrInvalid},
		{diskformat.VMDK, filepath.Join(dir, "x\n.vmdk"), fs.ErrInvalid},
		{diskformat.QCOW2, raw, fs.ErrInvalid},
	} {
		if _, err := b.ConvertDisk(t.Context(), raw, c.format, c.out); !errors.Is(err, c.want) {
			t.Errorf("%s to %q: %v", c.format.Name, c.out, err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	for _, out := range []string{"x.hdd", "x.pvm"} {
		if _, err := b.ConvertDisk(ctx, raw, diskformat.Parallels, filepath.Join(dir, out)); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", out, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}
