package imagebuild

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/cas"
)

// validISO makes an ISO image with a validTree.
func validISO(t *testing.T, b *Builder) string {
	t.Helper()
	tree, file := validTree(t, b), filepath.Join(t.TempDir(), "boot.iso")
	d := isoDisc{esp: tree.size(), date: tree.fatDate()}
	err := errors.Join(os.WriteFile(file, nil, 0o600), b.makeISO(t.Context(), tree, d, file))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

var elTorito = regexp.MustCompile(`El Torito boot img : +1 +UEFI +y +none +0x0000 +0x00 +0 +(\d+)`)

// xorriso finds the boot image of the CD where the partition table has the system partition.
func TestISOPassesItsJudges(t *testing.T) {
	b := testBuilder(t)
	image := shared(t, "boot.iso", validISO)
	out := judge(t, "xorriso", "-indev", image, "-report_el_torito", "plain", "-report_system_area", "plain", "-find", "/", "-exec", "report_lba", "--")
	m := elTorito.FindStringSubmatch(out)
	if m == nil || strings.Count(out, "El Torito boot img") != 1 || strings.Contains(out, "WARNING") || strings.Contains(out, "FAILURE") {
		t.Fatalf("xorriso: %s", out)
	}
	for _, words := range []string{
		"Volume id    : 'PHASE_BOOT'",
		"System area summary: MBR protective-msdos-label cyl-align-off GPT",
		"GPT partname local :   1  EFI system partition",
		fmt.Sprintf("GPT start and size :   1  %d  %d", firstPartition/sector, minESP/sector),
		"'/README.TXT'",
	} {
		if !strings.Contains(out, words) {
			t.Errorf("xorriso does not show %q: %s", words, out)
		}
	}
	if strings.Contains(out, "GPT partition name :   2") {
		t.Errorf("a second partition: %s", out)
	}
	lba, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || lba*cdSector != firstPartition {
		t.Errorf("the boot image is at sector %d, %v", lba, err)
	}
	esp := filepath.Join(t.TempDir(), "esp")
	if err := extract(esp, minESP, image, span{lba * cdSector, minESP}); err != nil {
		t.Fatal(err)
	}
	judge(t, "fsck.fat", "-n", esp)
	if out := judge(t, "sgdisk", "-v", image); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk: %s", out)
	}
	readme := filepath.Join(t.TempDir(), "README.TXT")
	judge(t, "xorriso", "-osirrox", "on", "-indev", image, "-extract", "/README.TXT", readme)
	if text, err := os.ReadFile(readme); string(text) != dataFile("iso/README.TXT") {
		t.Errorf("README.TXT: %q, %v", text, err)
	}
	c, err := b.Verify(t.Context(), image)
	if err != nil || c.Kind != KindISO || !slices.Equal(c.Checks, []string{"sgdisk", "fsck.fat"}) {
		t.Errorf("%+v, %v", c, err)
	}
	one, err := b.Verify(t.Context(), esp)
	if err != nil || one.ArchiveSum != c.ArchiveSum || one.KernelSum != c.KernelSum {
		t.Errorf("the partition has other contents: %+v, %v", one, err)
	}
	passed(t, "iso", "xorriso", "sgdisk", "fsck.fat", "verify")
	passed(t, "esp", "fsck.fat", "verify")
}

// An ISO image on a larger stick is verified, and its size is that of the image.
func TestAnISOOnAStickIsVerified(t *testing.T) {
	b := testBuilder(t)
	image := copyOf(t, shared(t, "boot.iso", validISO))
	before, err := b.Verify(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	patch(t, image, 300*mib, []byte("old bytes of the stick"))
	after, err := b.Verify(t.Context(), image)
	if err != nil || after.SHA256 != before.SHA256 || after.TrailingBytes == 0 {
		t.Errorf("%+v, %v", after, err)
	}
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if size, err := writtenSize(f, 301*mib); err != nil || size != before.Size {
		t.Errorf("size %d, %v, want %d", size, err, before.Size)
	}
}

func TestAttackACDThatBootsWhatVerifyDoesNotShow(t *testing.T) {
	b := testBuilder(t)
	image := copyOf(t, shared(t, "boot.iso", validISO))
	const catalog, root = cdCatalog * cdSector, cdRoot * cdSector
	for name, c := range map[string]struct {
		at   int64
		data string
	}{
		"boot code":                         {0, "\xeb\xfe"},
		"partition in the MBR":              {446 + 16, "\x80\x00\x02\x00\x0c\x00\x02\x00\x00\x08\x00\x00\x00\x08\x00\x00"},
		"second partition":                  {2*sector + 128, "\x28\x73\x2a\xc1\x1f\xf8\xd2\x11"},
		"partition elsewhere":               {2*sector + 32, "\x01"},
		"another header of the table":       {sector + 60, "x"},
		"a table for sectors of 2048 bytes": {cdSector, "EFI PART"},
		"bytes before the descriptors":      {20 << 10, "x"},
		"another boot image":                {catalog + 40, "\x01"},
		"second boot image":                 {catalog + 64, "\x91\xef\x01\x00"},
		"a boot image for the BIOS":         {catalog + 1, "\x00"},
		"catalog elsewhere":                 {cdBoot*cdSector + 71, "\x20"},
		"a second descriptor":               {cdEnd * cdSector, "\x02CD001\x01"},
		"a file":                            {root + 200, "\x22\x00"},
		"another root folder":               {cdPrimary*cdSector + 158, "\x30"},
		"another size of the CD":            {cdPrimary*cdSector + 80, "\x01"},
		"another date":                      {cdPrimary*cdSector + 813, "2001"},
		"not a date":                        {cdPrimary*cdSector + 813, "\x1b[2J"},
		"bytes after the file":              {cdReadme*cdSector + 2000, "x"},
		"bytes before the partition":        {firstPartition - 1, "x"},
		"bytes after the partition":         {firstPartition + minESP, "x"},
		"another backup of the table":       {-sector + 60, "x"},
		"UDF descriptors":                   {24 * cdSector, "\x00BEA01\x01"},
		"boot sector of the partition":      {firstPartition + 3, "x"},
		"unused cluster of the partition":   {firstPartition + minESP - mib, "x"}, // all identifiers change with it
	} {
		old := bytesAt(t, image, c.at, len(c.data))
		patch(t, image, c.at, []byte(c.data))
		if _, err := b.Verify(t.Context(), image); !errors.Is(err, cas.ErrCorrupt) || strings.ContainsRune(err.Error(), 0x1b) {
			t.Errorf("%s: %v", name, err)
		}
		patch(t, image, c.at, old)
	}
	if _, err := b.Verify(t.Context(), image); err != nil {
		t.Errorf("the unchanged one: %v", err)
	}
	if err := os.Truncate(image, 200*mib); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Verify(t.Context(), image); !errors.Is(err, cas.ErrCorrupt) {
		t.Errorf("truncated: %v", err)
	}
}

// bytesAt reads bytes of a file. A negative offset counts from the end.
func bytesAt(t *testing.T, file string, at int64, n int) []byte {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if at < 0 {
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		at += info.Size()
	}
	b := make([]byte, n)
	if err := readAll(f, b, at); err != nil {
		t.Fatal(err)
	}
	return b
}
