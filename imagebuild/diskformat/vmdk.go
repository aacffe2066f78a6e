package diskformat

import (
	"encoding/binary"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/phaseboot/phaseboot/internal/refusal"
)

// VMDK is VMware's growing image in one file (monolithicSparse), with grains of 64 KiB.
var VMDK = &Format{Name: "vmdk", block: vmdkGrain, magic: []byte("KDMV"), tables: vmdkTables, find: vmdkFind}

const (
	vmdkGrain          = 64 * kib
	vmdkTable          = 512 // entries of a grain table
	vmdkDescriptorAt   = 1   // sector
	vmdkDescriptorSize = 20  // sectors
)

// vmdkLayout has positions in sectors.
type vmdkLayout struct {
	tables             int64 // grain tables of a directory
	spare, dir, grains int64 // first directory, second directory, first grain
}

func vmdkLayOut(size int64) vmdkLayout {
	l := vmdkLayout{tables: roundUp(size/vmdkGrain, vmdkTable) / vmdkTable, spare: vmdkDescriptorAt + vmdkDescriptorSize}
	l.dir = l.spare + l.directory() + l.tables*vmdkTable*4/sector
	l.grains = roundUp(l.dir+l.directory()+l.tables*vmdkTable*4/sector, vmdkGrain/sector)
	return l
}

// directory returns the sectors of a directory.
func (l vmdkLayout) directory() int64 { return roundUp(l.tables*4, sector) / sector }

// vmdkTables returns the header, the descriptor, and both directories with their grain tables.
func vmdkTables(d *disk) []byte {
	l := vmdkLayOut(d.size)
	b := make([]byte, l.grains*sector)
	u32, u64 := binary.LittleEndian.PutUint32, binary.LittleEndian.PutUint64
	copy(b, "KDMV")
	u32(b[4:], 1)
	u32(b[8:], 3) // the line ends below are valid; there is a spare directory
	u64(b[12:], uint64(d.size/sector))
	u64(b[20:], vmdkGrain/sector)
	u64(b[28:], vmdkDescriptorAt)
	u64(b[36:], vmdkDescriptorSize)
	u32(b[44:], vmdkTable)
	u64(b[48:], uint64(l.spare))
	u64(b[56:], uint64(l.dir))
	u64(b[64:], uint64(l.grains))
	copy(b[73:], "\n \r\n") // shows damage by a transfer as text
	copy(b[vmdkDescriptorAt*sector:], d.vmdkDescriptor())
	for _, dir := range []int64{l.spare, l.dir} {
		first := dir + l.directory() // first grain table
		for i := range l.tables {
			u32(b[dir*sector+4*i:], uint32(first+i*vmdkTable*4/sector))
		}
		for k, n := range d.used {
			u32(b[first*sector+4*n:], uint32(l.grains+int64(k)*vmdkGrain/sector))
		}
	}
	return b
}

// vmdkDescriptor returns the text that names the disk's extents: this file alone. The CID is
// derived from the blocks.
func (d *disk) vmdkDescriptor() string {
	const heads, sectors = 255, 63
	cid := d.id.guid("CID")
	return fmt.Sprintf(`# Disk DescriptorFile
version=1
CID=%x
parentCID=ffffffff
createType="monolithicSparse"

# Extent description
RW %d SPARSE "%s"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "10"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "%d"
ddb.geometry.sectors = "%d"
ddb.adapterType = "lsilogic"
`, cid[:4], d.size/sector, d.name, d.size/sector/heads/sectors, heads, sectors)
}

// vmdkName returns the file name in the descriptor of an image, or "".
func vmdkName(tables []byte) string {
	m := vmdkExtent.FindSubmatch(tables[vmdkDescriptorAt*sector:][:vmdkDescriptorSize*sector])
	if m == nil {
		return ""
	}
	return string(m[1])
}

var vmdkExtent = regexp.MustCompile(`\nRW [0-9]+ SPARSE "([^"\n]*)"\n`)

// CheckName refuses a file name that an image of the format cannot have: VMDK repeats it in a
// descriptor. The error wraps fs.ErrInvalid.
func (f *Format) CheckName(name string) error {
	if f == VMDK && strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
		return refusal.Invalid("file name %.80q: a VMDK repeats it and allows only printable ASCII without quotes; choose another", name)
	}
	return nil
}

func vmdkFind(r io.ReaderAt) (size int64, used []int64, err error) {
	head := make([]byte, sector)
	if err := readAll(r, head, 0); err != nil {
		return 0, nil, err
	}
	size = int64(binary.LittleEndian.Uint64(head[12:])&(1<<50-1)) * sector
	if size > MaxSize {
		return size, nil, nil
	}
	l := vmdkLayOut(size)
	used, err = findEntries(r, (l.dir+l.directory())*sector, size/vmdkGrain, func(e []byte) bool { return binary.LittleEndian.Uint32(e) != 0 }, 4)
	return size, used, err
}
