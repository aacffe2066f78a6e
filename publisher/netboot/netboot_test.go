package netboot

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/phaseboot/phaseboot/publisher/pubtest"
)

// efiProgram returns an EFI program with one section, which has the text of a command line.
func efiProgram(section, text string) []byte {
	var b bytes.Buffer
	dos := make([]byte, 64)
	copy(dos, "MZ")
	dos[60] = 64
	raw := (len(text) + 511) / 512 * 512
	s := pe.SectionHeader32{VirtualSize: uint32(len(text)), VirtualAddress: 4096, SizeOfRawData: uint32(raw), PointerToRawData: 512}
	copy(s.Name[:], section)
	head := pe.FileHeader{Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: 1, SizeOfOptionalHeader: 240}
	for _, part := range []any{dos, []byte("PE\x00\x00"), head, pe.OptionalHeader64{Magic: 0x20b, NumberOfRvaAndSizes: 16}, s} {
		_ = binary.Write(&b, binary.LittleEndian, part) // a buffer takes all
	}
	return append(append(b.Bytes(), make([]byte, 512-b.Len())...), append([]byte(text), make([]byte, raw-len(text))...)...)
}

func TestNetbootServesTheOneFileThatIsNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "one.efi", efiProgram(".cmdline", "quiet"))
	write(t, dir, "two.efi", efiProgram(".cmdline", "quiet"))
	write(t, dir, "kernel", []byte("text"))
	n, err := Open(filepath.Join(dir, "one.efi"), pubtest.VerboseLog(t))
	pubtest.Check(t, err)
	for name, want := range map[string]int{"one.efi": 200, "one.ipxe": 200, "two.efi": 404, "two.ipxe": 404} {
		got := httptest.NewRecorder()
		if n.ServeHTTP(got, httptest.NewRequest(http.MethodGet, "/netboot/"+name, nil)); got.Code != want {
			t.Errorf("%s: %d, want %d", name, got.Code, want)
		}
	}
	for path, want := range map[string]error{filepath.Join(dir, "none.efi"): fs.ErrNotExist, filepath.Join(dir, "kernel"): fs.ErrInvalid} {
		if _, err := Open(path, pubtest.VerboseLog(t)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}

func write(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	pubtest.Check(t, errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name), data, 0o644)))
}

func TestExportCopiesProgramsAndTheirScripts(t *testing.T) {
	t.Parallel()
	dir, mirror := t.TempDir(), t.TempDir()
	write(t, dir, "a.efi", efiProgram(".cmdline", "quiet phase.mode=local"))
	write(t, dir, "own.efi", efiProgram(".text", "x"))
	write(t, dir, "own.ipxe", []byte("#!ipxe\nown\n"))
	write(t, dir, "secret.key", []byte("secret"))
	n, err := Open(dir, pubtest.VerboseLog(t))
	pubtest.Check(t, err)
	for _, want := range [][]string{{"a.efi", "a.ipxe", "own.efi", "own.ipxe"}, nil} { // the second time all are there
		if written, err := n.Export(mirror); err != nil || !slices.Equal(written, want) {
			t.Errorf("wrote %v, %v; want %v", written, err, want)
		}
	}
	for name, want := range map[string]string{"a.ipxe": "#!ipxe\nchain --name uki.efi a.efi quiet phase.mode=local\n", "own.ipxe": "#!ipxe\nown\n"} {
		if got, err := os.ReadFile(filepath.Join(mirror, "netboot", name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	write(t, dir, "own.ipxe", []byte("#!ipxe\nnew\n"))
	if written, err := n.Export(mirror); err != nil || !slices.Equal(written, []string{"own.ipxe"}) {
		t.Errorf("after a change: wrote %v, %v", written, err)
	}
	for _, cmdline := range []string{"x ${y}", strings.Repeat("phase.cache=off ", maxUKICmdline/16+1)} {
		write(t, dir, "a.efi", efiProgram(".cmdline", cmdline))
		if _, err := n.Export(mirror); err == nil {
			t.Errorf("a script that means something else was written for %.20q", cmdline)
		}
	}
}
