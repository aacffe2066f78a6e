package imagebuild

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/phaseboot/phaseboot/cas"
)

// A testFAT is a filesystem that a test changes. It begins as a smallFAT.
type testFAT struct{ b []byte }

func newTestFAT() testFAT { return testFAT{append(smallFAT(), make([]byte, 8*clusterSize)...)} }

// link sets the FAT entry of a cluster in both copies.
func (f testFAT) link(cluster int, value uint32) {
	for i := range fatTables {
		binary.LittleEndian.PutUint32(f.b[(fatReserved+8*i)*sector+4*cluster:], value)
	}
}

// cluster returns the bytes of a cluster.
func (f testFAT) cluster(n int) []byte {
	at := (fatReserved+fatTables*8)*sector + (n-2)*clusterSize
	return f.b[at : at+clusterSize]
}

// read returns the files as readESP would see them; "dir" is the only allowed folder.
func (f testFAT) read() (map[string]*fatFile, error) {
	fs, err := openFAT(padded{f.b, smallFATSize}, smallFATSize)
	if err != nil {
		return nil, err
	}
	return fs.files([]string{"dir"}, func(name string) bool { return !strings.HasPrefix(name, "evil") })
}

// shortEntry returns a directory entry; short has 11 bytes.
func shortEntry(short string, attr byte, cluster uint16, size uint32) []byte {
	b := make([]byte, dirEntry)
	copy(b, short)
	b[11] = attr
	binary.LittleEndian.PutUint16(b[26:], cluster)
	binary.LittleEndian.PutUint32(b[28:], size)
	return b
}

// longEntries returns the long-name entries of a name, for the short name that follows.
func longEntries(name, short string) []byte {
	units := append(utf16.Encode([]rune(name)), 0)
	for len(units)%longUnits != 0 {
		units = append(units, 0xffff)
	}
	var out []byte
	for n := len(units) / longUnits; n > 0; n-- {
		b := make([]byte, dirEntry)
		b[0], b[11], b[13] = byte(n), attrLong, shortNameChecksum([]byte(short))
		if n == len(units)/longUnits {
			b[0] |= 0x40
		}
		for i, at := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
			binary.LittleEndian.PutUint16(b[at:], units[(n-1)*longUnits+i])
		}
		out = append(out, b...)
	}
	return out
}

func TestFormatFATIsRead(t *testing.T) {
	const end = 0x0fffffff
	f := newTestFAT()
	copy(f.cluster(3), "hello")
	long := append(longEntries("A-longer-name.conf", "ALONGE~1CON"), shortEntry("ALONGE~1CON", 0, 6, 2)...)
	copy(f.cluster(2)[dirEntry:], join(shortEntry("DIR        ", attrDir, 4, 0), long))
	copy(f.cluster(4), join(shortEntry(".          ", attrDir, 4, 0), shortEntry("..         ", attrDir, 0, 0), shortEntry("TWO     BIN", 0, 5, clusterSize+1)))
	f.link(4, end)
	f.link(5, 7)
	f.link(6, end)
	f.link(7, end)
	f.cluster(7)[0] = 'z'
	files, err := f.read()
	if err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int64{"phase": 5, "a-longer-name.conf": 2, "dir/two.bin": clusterSize + 1} {
		if files[name] == nil || files[name].size != size {
			t.Errorf("%s: %+v, want %d bytes", name, files[name], size)
		}
	}
	if data, err := io.ReadAll(files["phase"].reader()); err != nil || string(data) != "hello" {
		t.Errorf("read %q, %v", data, err)
	}
	if data, err := io.ReadAll(files["dir/two.bin"].reader()); err != nil || data[clusterSize] != 'z' {
		t.Errorf("the second cluster was not read: %v", err)
	}
}

func TestFormatFATThatFirmwareCouldReadInAnotherWayIsCorrupt(t *testing.T) {
	second := func(entries ...[]byte) func(testFAT) {
		return func(f testFAT) { copy(f.cluster(2)[dirEntry:], join(entries...)) }
	}
	long, short := longEntries("name.conf", "NAME~1  CON"), shortEntry("NAME~1  CON", 0, 0, 0)
	for _, c := range []struct {
		name   string
		change func(f testFAT)
		words  string
	}{
		{"not FAT32", func(f testFAT) { f.b[82] = 'X' }, "not the FAT32"},
		{"other copy of the boot sector", func(f testFAT) { f.b[6*sector+3] ^= 1 }, "its copy differ"},
		{"copies of the FAT differ", func(f testFAT) { f.b[fatReserved*sector+12] ^= 1 }, "two copies of the FAT differ"},
		{"circular chain", func(f testFAT) { f.link(3, 3) }, "shares a cluster"},
		{"chain after the end", func(f testFAT) { f.link(3, 0x0ffffff0) }, "leaves the filesystem"},
		{"chain too long", func(f testFAT) { f.link(3, 4); f.link(4, endOfChain) }, "longer than its file"},
		{"chain too short", func(f testFAT) { binary.LittleEndian.PutUint32(f.cluster(2)[28:], clusterSize+1) }, "shorter than its file"},
		{"two files share a cluster", second(shortEntry("OTHER      ", 0, 3, 5)), "shares a cluster"},
		{"unknown file", second(shortEntry("EVIL       ", 0, 0, 0)), `"evil": not written by phase-image`},
		{"unknown folder", second(shortEntry("EVIL       ", attrDir, 4, 0)), `folder "evil": not written by phase-image`},
		{"repeated short name", second(shortEntry("PHASE      ", 0, 0, 0)), `repeated name "phase"`},
		{"long name repeats a short one", second(longEntries("phase", "OTHER      "), shortEntry("OTHER      ", 0, 0, 0)), `repeated name "phase"`},
		{"long name of another short one", second(long, shortEntry("OTHER      ", 0, 0, 0)), "invalid long name"},
		{"long name without a file", second(long), "bytes after its end"},
		{"long name before a deleted file", second(long, append([]byte{0xe5}, short[1:]...)), "long name without a file"},
		{"part of a long name", second(longEntries("twenty characters.ab", "NAME~1  CON")[dirEntry:], short), "invalid long name"},
		{"volume label after a file", second(shortEntry("LABEL      ", attrVolume, 0, 0)), "volume label"},
		{"folder without . and ..", func(f testFAT) {
			second(shortEntry("DIR        ", attrDir, 4, 0))(f)
			copy(f.cluster(4), shortEntry("X          ", 0, 0, 0))
			f.link(4, endOfChain)
		}, `no "." and ".." entries`},
		{". of another folder", func(f testFAT) {
			second(shortEntry("DIR        ", attrDir, 4, 0))(f)
			copy(f.cluster(4), shortEntry(".          ", attrDir, 5, 0))
			f.link(4, endOfChain)
		}, `invalid "." or ".." entry`},
		{"name with a control character", second(shortEntry("A\x1b         ", 0, 0, 0)), "phase-image does not write such names"},
		{"bytes after the end of the folder", func(f testFAT) { f.cluster(2)[3*dirEntry] = 'x' }, "bytes after its end"},
	} {
		f := newTestFAT()
		c.change(f)
		if _, err := f.read(); !errors.Is(err, cas.ErrCorrupt) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, want %q", c.name, err, c.words)
		}
	}
}
