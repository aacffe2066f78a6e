package fat32

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"time"
	"unicode/utf16"
)

// copyBlock is the size of a write of content in bytes.
const copyBlock = 1 << 20

// Create writes a file of size bytes. Its folder must exist, and the file must not (fs.ErrExist). When the
// device has no room for it, the error wraps ErrFull. The file appears when its content is on the disk.
func (v *Volume) Create(name string, size int64, r io.Reader) error {
	list, err := v.begin(name, size)
	if err != nil {
		return err
	}
	if err := v.fill(list, size, r); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return v.link(name, attrArchive, size, list)
}

// Mkdir makes an empty folder in one that exists.
func (v *Volume) Mkdir(name string) error {
	list, err := v.begin(name, v.cluster)
	if err != nil {
		return err
	}
	parent := uint32(0) // the root
	if dir := path.Dir(name); dir != "." {
		_, e, err := v.lookup(dir)
		if err != nil {
			return err
		}
		parent = e.first
	}
	b := make([]byte, v.cluster)
	v.putShort(b, [11]byte([]byte(".          ")), attrFolder, list[0], 0)
	v.putShort(b[slotSize:], [11]byte([]byte("..         ")), attrFolder, parent, 0)
	if _, err := v.dev.WriteAt(b, v.offset(list[0])); err != nil {
		return err
	}
	return v.link(name, attrFolder, 0, list)
}

// begin mends the filesystem and chooses clusters for a new file.
func (v *Volume) begin(name string, size int64) ([]uint32, error) {
	if size > math.MaxUint32 {
		return nil, fmt.Errorf("%s: %d bytes, FAT has no longer file than 4 GiB: %w", name, size, ErrFull)
	}
	_, e, err := v.lookup(name)
	if err == nil && e != nil {
		err = &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	if err == nil {
		err = v.mend()
	}
	if err != nil {
		return nil, err
	}
	return v.allocate(int(v.Room(size) / v.cluster))
}

// allocate chooses free clusters. The FAT is not changed yet.
func (v *Volume) allocate(n int) (list []uint32, err error) {
	for c := 2; c < v.clusters && len(list) < n; c++ {
		if v.isFree(uint32(c)) {
			list = append(list, uint32(c))
		}
	}
	if len(list) < n {
		return nil, fmt.Errorf("%d clusters of %d bytes are needed, %d are free: %w", n, v.cluster, len(list), ErrFull)
	}
	return list, nil
}

// fill writes size bytes to clusters.
func (v *Volume) fill(list []uint32, size int64, r io.Reader) error {
	buf := make([]byte, copyBlock/v.cluster*v.cluster)
	for len(list) > 0 {
		run := min(runLength(list), int64(len(buf))/v.cluster)
		b := buf[:run*v.cluster]
		n := min(size, int64(len(b)))
		if _, err := io.ReadFull(r, b[:n]); err != nil {
			return err
		}
		clear(b[n:])
		if _, err := v.dev.WriteAt(b, v.offset(list[0])); err != nil {
			return err
		}
		list, size = list[run:], size-n
	}
	return nil
}

// link makes a chain of the clusters and then an entry for them.
func (v *Volume) link(name string, attr byte, size int64, list []uint32) error {
	if err := v.dev.Sync(); err != nil {
		return err
	}
	first := uint32(0)
	if len(list) > 0 {
		first = list[0]
		v.join(list)
	}
	err := v.flush()
	if err == nil {
		err = v.take(list)
	}
	if err == nil {
		err = v.addEntry(name, attr, first, size)
	}
	if err != nil {
		return err
	}
	return v.writeInfo()
}

// join makes a chain of clusters in the FAT in memory.
func (v *Volume) join(list []uint32) {
	for i, c := range list {
		next := uint32(lastInFile)
		if i+1 < len(list) {
			next = list[i+1]
		}
		v.set(c, next)
	}
}

// addEntry adds the slots of a name to its folder. They are in one sector, so the entry appears with one
// write.
func (v *Volume) addEntry(name string, attr byte, first uint32, size int64) error {
	f, e, err := v.lookup(name)
	if err != nil {
		return err
	}
	if e != nil {
		return &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	base := path.Base(name)
	short, err := f.newShort(base)
	if err != nil {
		return err
	}
	slots := longSlots(base, checksum(short))
	last := make([]byte, slotSize)
	v.putShort(last, short, attr, first, size)
	slots = append(slots, last...)
	n := len(slots) / slotSize
	if n > perSector {
		return fmt.Errorf("name %.80q: too long", base)
	}
	at := f.place(n)
	if (at+n)*slotSize > len(f.data) {
		if err := v.enlarge(f); err != nil {
			return err
		}
	}
	if f.end < at { // the rest of a sector that is too short: readers stop at a slot that begins with 0
		for i := f.end; i < at; i++ {
			f.slot(i)[0] = deleted
		}
		if err := v.writeSlots(f, f.end); err != nil {
			return err
		}
	}
	copy(f.data[at*slotSize:], slots)
	return v.writeSlots(f, at)
}

// place returns the first slot of n free ones in one sector.
func (f *folder) place(n int) int {
	for at := 0; ; at++ {
		if at%perSector+n > perSector {
			at = at/perSector*perSector + perSector
		}
		free := 0
		for free < n && (at+free >= f.end || f.slot(at + free)[0] == deleted) {
			free++
		}
		if free == n {
			return at
		}
	}
}

// writeSlots writes the sector of a slot.
func (v *Volume) writeSlots(f *folder, slot int) error {
	at := int64(slot) / perSector * sector
	where := v.offset(f.chain[at/v.cluster]) + at%v.cluster
	if _, err := v.dev.WriteAt(f.data[at:at+sector], where); err != nil {
		return err
	}
	return v.dev.Sync()
}

// enlarge adds a cluster of zeros to a folder. Its own entry in the FAT is written before the one that leads
// to it.
func (v *Volume) enlarge(f *folder) error {
	list, err := v.allocate(1)
	if err != nil {
		return err
	}
	if len(f.data) >= maxFolder {
		return fmt.Errorf("folder: %w", ErrFull)
	}
	zeros := make([]byte, v.cluster)
	if _, err := v.dev.WriteAt(zeros, v.offset(list[0])); err != nil {
		return err
	}
	if err := v.dev.Sync(); err != nil {
		return err
	}
	v.set(list[0], lastInFile)
	if err := v.flush(); err != nil {
		return err
	}
	v.set(f.chain[len(f.chain)-1], list[0])
	f.chain, f.data = append(f.chain, list[0]), append(f.data, zeros...)
	return errors.Join(v.take(list), v.flush())
}

// Remove removes a file or an empty folder.
func (v *Volume) Remove(name string) error {
	f, e, err := v.lookup(name)
	if err == nil && e == nil {
		err = &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	if err == nil && e.IsDir {
		var list []Entry
		if list, err = v.ReadDir(name); err == nil && len(list) > 0 {
			err = &fs.PathError{Op: "remove", Path: name, Err: errors.New("folder not empty")}
		}
	}
	if err == nil {
		err = v.mend()
	}
	if err != nil {
		return err
	}
	return v.unlink(f, e)
}

// unlink removes an entry and frees its clusters. The slot of the short name, which is the file, goes with
// the first write.
func (v *Volume) unlink(f *folder, e *Entry) error {
	var list []uint32
	var err error
	if e.first != 0 {
		if list, err = v.chain(e.first, v.clusters); err != nil {
			return err
		}
	}
	for _, i := range e.slots {
		f.slot(i)[0] = deleted
	}
	last := e.slots[len(e.slots)-1]
	if err := v.writeSlots(f, last); err != nil {
		return err
	}
	for _, i := range e.slots { // firmware may have written a name across two sectors
		if i/perSector != last/perSector {
			if err := v.writeSlots(f, i); err != nil {
				return err
			}
			last = i
		}
	}
	for _, c := range list {
		v.set(c, 0)
		v.used[c] = false
	}
	if err := v.flush(); err != nil {
		return err
	}
	return v.writeInfo()
}

// longSlots returns the slots of a long name.
func longSlots(name string, sum byte) []byte {
	units := utf16.Encode([]rune(name))
	count := (len(units) + longUnits - 1) / longUnits
	b := make([]byte, count*slotSize)
	for i := range count {
		slot := b[(count-1-i)*slotSize:][:slotSize]
		slot[0], slot[11], slot[13] = byte(i+1), attrLong, sum
		if i == count-1 {
			slot[0] |= lastPart
		}
		for k, at := range unitsAt {
			unit := uint16(0xffff)
			switch n := i*longUnits + k; {
			case n < len(units):
				unit = units[n]
			case n == len(units):
				unit = 0
			}
			binary.LittleEndian.PutUint16(slot[at:], unit)
		}
	}
	return b
}

// putShort writes the slot of a short name.
func (v *Volume) putShort(b []byte, short [11]byte, attr byte, first uint32, size int64) {
	date, clock := fatTime(v.Date)
	put := binary.LittleEndian.PutUint16
	copy(b, short[:])
	b[11] = attr
	put(b[14:], clock)
	put(b[16:], date)
	put(b[18:], date)
	put(b[20:], uint16(first>>16))
	put(b[22:], clock)
	put(b[24:], date)
	put(b[26:], uint16(first))
	binary.LittleEndian.PutUint32(b[28:], uint32(size))
}

// fatTime returns a date and a time of day in FAT's form, in UTC.
func fatTime(t time.Time) (date, clock uint16) {
	if t = t.UTC(); t.Year() < 1980 || t.Year() > 2107 {
		return 1<<5 | 1, 0
	}
	return uint16(t.Year()-1980)<<9 | uint16(t.Month())<<5 | uint16(t.Day()), uint16(t.Hour())<<11 | uint16(t.Minute())<<5 | uint16(t.Second()/2)
}
