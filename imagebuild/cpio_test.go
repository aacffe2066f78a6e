package imagebuild

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

func TestFormatArchiveIsReadBack(t *testing.T) {
	a := newArchive()
	addSkeleton(a)
	a.text("init", "program")
	a.link("bin/sh", "busybox")
	var out bytes.Buffer
	if err := a.writeTo(&out, time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := readArchive(&out, func(c cpioRecord) error {
		got = append(got, fmt.Sprintf("%s %o %d", c.name, c.mode, c.size))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"bin/sh 120777 7", "dev/console 20600 0", "init 100644 7", "tmp 41777 0"} {
		if !slices.Contains(got, want) {
			t.Errorf("no record %q in %q", want, got)
		}
	}
	if !slices.IsSorted(got) {
		t.Errorf("not sorted: %q", got)
	}
}

func TestFormatArchiveThatTheKernelUnpacksInAnotherWayIsCorrupt(t *testing.T) {
	file := fileMember("a", "text")
	for _, c := range []struct{ name, text, words string }{
		{"empty input", "", "no trailer"},
		{"no trailer", file, `truncated after "a": no trailer`},
		{"truncated header", file + trailer[:50], "truncated"},
		{"other magic", strings.Replace(file, "070701", "070707", 1), "invalid header"},
		{"empty name", fileMember("", "") + trailer, "name of 1 bytes"},
		{"long name", fileMember(strings.Repeat("a", maxRecordName), "") + trailer, "name of 1025 bytes"},
		{"absolute name", fileMember("/a", "") + trailer, "not in canonical form"},
		{"name with ..", fileMember("../a", "") + trailer, "not in canonical form"},
		{"name with a control character", fileMember("a\nb", "") + trailer, "not in canonical form"},
		{"repeated name", file + file + trailer, "repeated, or not in sorted order"},
		{"wrong order", fileMember("b", "") + file + trailer, "repeated, or not in sorted order"},
		{"no folder", fileMember("x/a", "") + trailer, "its folder is not in the archive"},
		{"symbolic link as a folder", linkMember("x", "a") + fileMember("x/a", "") + trailer, "its folder is not in the archive"},
		{"hard link", member("a", modeFile|0o644, 2, "") + trailer, "a hard link"},
		{"socket", member("a", 0o140644, 0, "") + trailer, "mode 140644 with 0 bytes is not allowed"},
		{"empty symbolic link", linkMember("a", "") + trailer, "mode 120777 with 0 bytes is not allowed"},
		{"padding", strings.Replace(fileMember("a", "12345"), "12345\x00", "12345x", 1) + trailer, "padding is not zero"},
		{"trailer with a body", file + member(cpioTrailer, 0, 0, "x"), "trailer with a body"},
		{"bytes after the trailer", file + trailer + "x", "bytes after its end"},
		{"second archive", file + trailer + file + trailer, "bytes after its end"},
	} {
		err := readArchive(strings.NewReader(c.text), func(cpioRecord) error { return nil })
		if !errors.Is(err, cas.ErrCorrupt) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, want %q", c.name, err, c.words)
		}
	}
}
