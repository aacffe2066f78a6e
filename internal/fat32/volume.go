package fat32

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	sector     = 512
	maxTable   = 8 << 20 // bytes of one copy of the FAT
	maxFolder  = 2 << 20 // bytes of a folder, by the specification
	entryMask  = 0x0fffffff
	badCluster = 0x0ffffff7
	endOfChain = 0x0ffffff8 // entries of the FAT from this value on end a chain
	lastInFile = 0x0fffffff // what is written there
	cleanBits  = 0x0c000000 // in entry 1: the volume was left in order
	unknown    = 0xffffffff // in the FSInfo sector: to be counted
)

// ErrLayout is the error for a filesystem that is damaged or of another kind.
var ErrLayout = errors.New("not a FAT32 filesystem in order")

// ErrFull is the error for a file that does not fit.
var ErrFull = errors.New("filesystem full")

// A Device has the filesystem at its start.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// A Volume is an open filesystem. It is used by one goroutine.
type Volume struct {
	// Date is that of new files. The zero time means 1980, the first year of FAT.
	Date time.Time

	dev      Device
	copies   int64 // of the FAT
	fatAt    int64 // offset of the first one in bytes
	fatSize  int64 // bytes of one
	dataAt   int64 // offset of cluster 2
	cluster  int64 // bytes of a cluster
	root     uint32
	infoAt   int64  // offset of the FSInfo sector, 0 for none
	table    []byte // the FAT, as it is to be
	stale    map[int64]bool
	used     []bool // clusters of files and folders
	mended   bool   // the copies of the FAT are equal, and no cluster is lost
	clusters int    // entries of the FAT that belong to a cluster, and the first two
}

func layoutf(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrLayout)
}

// Open reads the filesystem at the start of a device of size bytes and checks the chains of all its files.
// It writes nothing.
func Open(d Device, size int64) (*Volume, error) {
	b := make([]byte, sector)
	if _, err := d.ReadAt(b, 0); err != nil {
		return nil, err
	}
	v := &Volume{dev: d, stale: map[int64]bool{}}
	if err := v.readBoot(b, size); err != nil {
		return nil, err
	}
	v.table = make([]byte, v.fatSize)
	if _, err := d.ReadAt(v.table, v.fatAt); err != nil {
		return nil, err
	}
	v.used = make([]bool, v.clusters)
	return v, v.walk(v.root, 0)
}

func (v *Volume) readBoot(b []byte, size int64) error {
	u16, u32 := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32
	perCluster, sectors := int64(b[13]), int64(u32(b[32:]))
	if b[510] != 0x55 || b[511] != 0xaa || u16(b[11:]) != sector || string(b[82:90]) != "FAT32   " || u16(b[17:]) != 0 || u16(b[22:]) != 0 {
		return layoutf("boot sector of another kind")
	}
	v.copies, v.fatAt, v.fatSize = int64(b[16]), int64(u16(b[14:]))*sector, int64(u32(b[36:]))*sector
	v.dataAt, v.cluster, v.root = v.fatAt+v.copies*v.fatSize, perCluster*sector, u32(b[44:])
	if info := int64(u16(b[48:])); info != 0 && info != 0xffff {
		v.infoAt = info * sector
	}
	if perCluster == 0 || perCluster&(perCluster-1) != 0 || v.copies < 1 || v.copies > 2 || v.fatSize == 0 || v.fatSize > maxTable || u16(b[40:])&0x80 != 0 {
		return layoutf("unusual parameters in the boot sector")
	}
	count := (sectors*sector - v.dataAt) / v.cluster
	if sectors*sector > size || count <= 0 || (count+2)*4 > v.fatSize || v.infoAt >= v.fatAt || v.fatAt == 0 {
		return layoutf("inconsistent sizes in the boot sector")
	}
	v.clusters = int(count) + 2
	return nil
}

func (v *Volume) entry(c uint32) uint32 {
	return binary.LittleEndian.Uint32(v.table[4*c:]) & entryMask
}

// set changes an entry of the FAT in memory. The upper four bits are reserved.
func (v *Volume) set(c, value uint32) {
	b := v.table[4*c:]
	old := binary.LittleEndian.Uint32(b)
	if value = old&^entryMask | value; value != old {
		binary.LittleEndian.PutUint32(b, value)
		v.stale[int64(4*c)/sector*sector] = true
	}
}

// chain returns the clusters of the file or folder that begins at first.
func (v *Volume) chain(first uint32, limit int) (list []uint32, err error) {
	for c := first; ; c = v.entry(c) {
		if c < 2 || int64(c) >= int64(v.clusters) || len(list) >= limit {
			return nil, layoutf("the chain of cluster %d is broken", first)
		}
		list = append(list, c)
		if v.entry(c) >= endOfChain {
			return list, nil
		}
	}
}

// take records that clusters belong to a file.
func (v *Volume) take(list []uint32) error {
	for _, c := range list {
		if v.used[c] {
			return layoutf("cluster %d belongs to two files", c)
		}
		v.used[c] = true
	}
	return nil
}

const maxDepth = 8 // folders below each other

// walk records the clusters of all files below a folder.
func (v *Volume) walk(first uint32, depth int) error {
	f, err := v.readFolder(first)
	if err != nil {
		return err
	}
	if err := v.take(f.chain); err != nil || depth > maxDepth {
		return errors.Join(err, v.tooDeep(depth))
	}
	for _, e := range f.entries {
		switch {
		case e.dot:
		case e.IsDir:
			err = v.walk(e.first, depth+1)
		case e.first != 0:
			var list []uint32
			if list, err = v.chain(e.first, v.clusters); err == nil {
				err = v.take(list)
			}
			if err == nil && int64(len(list)) != (e.Size+v.cluster-1)/v.cluster {
				err = layoutf("file %.80q has %d clusters for %d bytes", e.Name, len(list), e.Size)
			}
		case e.Size != 0:
			err = layoutf("file %.80q has no cluster", e.Name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (v *Volume) tooDeep(depth int) error {
	if depth > maxDepth {
		return layoutf("folders more than %d levels deep", maxDepth)
	}
	return nil
}

// Free returns how many bytes are free, in whole clusters.
func (v *Volume) Free() int64 { return int64(v.freeClusters()) * v.cluster }

// Room returns how many bytes of the filesystem a file of size bytes takes.
func (v *Volume) Room(size int64) int64 { return (size + v.cluster - 1) / v.cluster * v.cluster }

func (v *Volume) freeClusters() (n int) {
	for c := 2; c < v.clusters; c++ {
		if v.isFree(uint32(c)) {
			n++
		}
	}
	return n
}

// isFree reports whether no file has a cluster, also if it is lost.
func (v *Volume) isFree(c uint32) bool { return !v.used[c] && v.entry(c) != badCluster }

// Mend frees clusters that belong to no file, and makes the copies of the FAT equal. Each change does so first.
func (v *Volume) Mend() error { return v.mend() }

// mend frees lost clusters and makes the copies of the FAT equal, once.
func (v *Volume) mend() error {
	if v.mended {
		return nil
	}
	for c := 2; c < v.clusters; c++ {
		if v.isFree(uint32(c)) {
			v.set(uint32(c), 0)
		}
	}
	v.set(1, v.entry(1)|cleanBits)
	other := make([]byte, v.fatSize)
	for i := int64(1); i < v.copies; i++ {
		if _, err := v.dev.ReadAt(other, v.fatAt+i*v.fatSize); err != nil {
			return err
		}
		for at := int64(0); at < v.fatSize; at += sector {
			if !bytes.Equal(other[at:at+sector], v.table[at:at+sector]) {
				v.stale[at] = true
			}
		}
	}
	if err := v.flush(); err != nil {
		return err
	}
	v.mended = true
	return v.writeInfo()
}

// flush writes the changed sectors of the FAT: the first copy, which firmware reads, last.
func (v *Volume) flush() error {
	for i := v.copies - 1; i >= 0; i-- {
		for at := int64(0); at < v.fatSize; at += sector {
			if !v.stale[at] {
				continue
			}
			if _, err := v.dev.WriteAt(v.table[at:at+sector], v.fatAt+i*v.fatSize+at); err != nil {
				return err
			}
		}
		if err := v.dev.Sync(); err != nil {
			return err
		}
	}
	clear(v.stale)
	return nil
}

// writeInfo writes the number of free clusters. Nothing depends on it; checkers compare it.
func (v *Volume) writeInfo() error {
	if v.infoAt == 0 {
		return nil
	}
	b := make([]byte, sector)
	if _, err := v.dev.ReadAt(b, v.infoAt); err != nil {
		return err
	}
	if string(b[:4]) != "RRaA" || string(b[484:488]) != "rrAa" {
		return layoutf("no FSInfo sector")
	}
	count := uint32(v.freeClusters())
	if binary.LittleEndian.Uint32(b[488:]) == count {
		return nil
	}
	binary.LittleEndian.PutUint32(b[488:], count)
	binary.LittleEndian.PutUint32(b[492:], unknown)
	if _, err := v.dev.WriteAt(b, v.infoAt); err != nil {
		return err
	}
	return v.dev.Sync()
}

func (v *Volume) offset(c uint32) int64 { return v.dataAt + int64(c-2)*v.cluster }
