package diskformat

import (
	"encoding/binary"
	"io"
)

// Parallels is the expanding image (.hds) of Parallels Desktop, with clusters of 1 MiB. A bundle
// (.hdd) has it beside its descriptor.
var Parallels = &Format{Name: "parallels", block: hdsCluster, magic: []byte(hdsMagic), tables: hdsTables, find: hdsFind}

// Heads and Sectors are the geometry of a Parallels disk: 256 KiB for each cylinder.
const (
	Heads   = 16
	Sectors = 32
)

const (
	hdsMagic   = "WithouFreSpacExt" // table entries count clusters
	hdsCluster = mib
	hdsHeader  = 64
)

// hdsTables returns the header and the block allocation table.
func hdsTables(d *disk) []byte {
	first := (hdsHeader + 4*d.blocks() + hdsCluster - 1) / hdsCluster // first cluster of the data
	b := make([]byte, first*hdsCluster)
	u32 := binary.LittleEndian.PutUint32
	copy(b, hdsMagic)
	u32(b[16:], 2)
	u32(b[20:], Heads)
	u32(b[24:], uint32(d.size/sector/Heads/Sectors))
	u32(b[28:], hdsCluster/sector)
	u32(b[32:], uint32(d.blocks()))
	binary.LittleEndian.PutUint64(b[36:], uint64(d.size/sector))
	u32(b[48:], uint32(first*hdsCluster/sector))
	for k, n := range d.used {
		u32(b[hdsHeader+4*n:], uint32(first+int64(k)))
	}
	return b
}

func hdsFind(r io.ReaderAt) (size int64, used []int64, err error) {
	head := make([]byte, hdsHeader)
	if err := readAll(r, head, 0); err != nil {
		return 0, nil, err
	}
	size = int64(binary.LittleEndian.Uint64(head[36:])&(1<<50-1)) * sector
	used, err = findEntries(r, hdsHeader, size/hdsCluster, func(e []byte) bool { return binary.LittleEndian.Uint32(e) != 0 }, 4)
	return size, used, err
}

// findEntries reads a table of n entries of width bytes and returns the numbers of those that
// are in use.
func findEntries(r io.ReaderAt, at, n int64, inUse func(entry []byte) bool, width int64) (used []int64, err error) {
	if n > MaxSize/(64*kib) {
		return nil, corrupt("a disk of more than %d GiB", int64(MaxSize>>30))
	}
	table := make([]byte, n*width)
	if err := readAll(r, table, at); err != nil {
		return nil, err
	}
	for i := range n {
		if inUse(table[i*width : (i+1)*width]) {
			used = append(used, i)
		}
	}
	return used, nil
}
