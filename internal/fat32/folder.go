package fat32

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode/utf16"
)

const (
	slotSize  = 32
	perSector = sector / slotSize
	deleted   = 0xe5

	attrVolume  = 0x08
	attrFolder  = 0x10
	attrArchive = 0x20
	attrLong    = 0x0f
	lastPart    = 0x40 // in the first byte of the slot with the last part of a long name
	longUnits   = 13   // UTF-16 units of a name in one slot
)

// An Entry is a file or a folder.
type Entry struct {
	Name  string // the long name, or else the short one
	Size  int64  // bytes
	IsDir bool

	first uint32
	short [11]byte
	slots []int // in its folder, of the long name and then of the short one
	dot   bool  // "." or ".."
}

// A folder is its content as it is on the disk.
type folder struct {
	chain   []uint32
	data    []byte
	entries []Entry
	end     int // the first slot that was never used
}

func (v *Volume) readFolder(first uint32) (*folder, error) {
	chain, err := v.chain(first, int(max(1, maxFolder/v.cluster)))
	if err != nil {
		return nil, err
	}
	f := &folder{chain: chain, data: make([]byte, int64(len(chain))*v.cluster)}
	for i, c := range chain {
		if _, err := v.dev.ReadAt(f.data[int64(i)*v.cluster:int64(i+1)*v.cluster], v.offset(c)); err != nil {
			return nil, err
		}
	}
	return f, f.parse()
}

func (f *folder) slot(i int) []byte { return f.data[i*slotSize : (i+1)*slotSize] }

func (f *folder) parse() error {
	var long []int // slots of a long name that are not followed by their short name yet
	count := len(f.data) / slotSize
	for f.end = 0; f.end < count && f.slot(f.end)[0] != 0; f.end++ {
		b := f.slot(f.end)
		switch attr := b[11]; {
		case b[0] == deleted:
			long = nil
		case attr&0x3f == attrLong:
			if b[0]&lastPart != 0 {
				long = nil
			}
			long = append(long, f.end)
		case attr&attrVolume != 0:
			long = nil
		default:
			f.entries = append(f.entries, f.entryAt(f.end, long))
			long = nil
		}
	}
	if len(bytes.TrimLeft(f.data[f.end*slotSize:], "\x00")) > 0 {
		return layoutf("bytes after the end of a folder")
	}
	return nil
}

func (f *folder) entryAt(i int, long []int) Entry {
	b := f.slot(i)
	e := Entry{
		Size: int64(binary.LittleEndian.Uint32(b[28:])), IsDir: b[11]&attrFolder != 0, short: [11]byte(b), slots: append(slices.Clone(long), i),
		first: uint32(binary.LittleEndian.Uint16(b[20:]))<<16 | uint32(binary.LittleEndian.Uint16(b[26:])), dot: b[0] == '.',
	}
	var ok bool
	if e.Name, ok = f.longName(long, checksum(e.short)); !ok {
		e.Name, e.slots = shortText(e.short), []int{i}
	}
	return e
}

// longName joins the parts of a long name. The slot with the last part comes first.
func (f *folder) longName(slots []int, sum byte) (string, bool) {
	var units []uint16
	for i, at := range slots {
		b := f.slot(at)
		if int(b[0]&^lastPart) != len(slots)-i || b[13] != sum || (b[0]&lastPart != 0) != (i == 0) {
			return "", false
		}
		part := make([]uint16, 0, longUnits)
		for _, at := range unitsAt {
			part = append(part, binary.LittleEndian.Uint16(b[at:]))
		}
		units = append(part, units...)
	}
	if end := slices.Index(units, 0); end >= 0 {
		units = units[:end]
	}
	return string(utf16.Decode(units)), len(slots) > 0
}

// unitsAt are the offsets of the parts of a name in a slot.
var unitsAt = [longUnits]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30}

func shortText(b [11]byte) string {
	base, extension := strings.TrimRight(string(b[:8]), " "), strings.TrimRight(string(b[8:]), " ")
	if extension == "" {
		return base
	}
	return base + "." + extension
}

// checksum is that of a short name, which the slots of its long name repeat.
func checksum(b [11]byte) (sum byte) {
	for _, c := range b {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}

// find returns the entry of a name. FAT ignores case.
func (f *folder) find(name string) *Entry {
	i := slices.IndexFunc(f.entries, func(e Entry) bool {
		return !e.dot && (strings.EqualFold(e.Name, name) || strings.EqualFold(shortText(e.short), name))
	})
	if i < 0 {
		return nil
	}
	return &f.entries[i]
}

// maxShort is how many short names newShort tries for a long one: "~1" to "~9", then "~A0" to "~Z9".
const maxShort = 270

// newShort returns a short name for a long one that no other entry has.
func (f *folder) newShort(name string) (short [11]byte, err error) {
	keep := func(s string, most int) string {
		s = strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' {
				return r - 'a' + 'A'
			}
			if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' {
				return r
			}
			return -1
		}, s)
		return s[:min(len(s), most)]
	}
	extension := path.Ext(name)
	base := keep(strings.TrimSuffix(name, extension), 5)
	for n := 1; n < maxShort; n++ {
		copy(short[:], "           ")
		tail := "~" + string(rune('0'+n%10))
		if n > 9 {
			tail = "~" + string(rune('A'+n/10-1)) + string(rune('0'+n%10))
		}
		copy(short[:8], base[:min(len(base), 8-len(tail))]+tail)
		copy(short[8:], keep(extension, 3))
		if !slices.ContainsFunc(f.entries, func(e Entry) bool { return e.short == short }) {
			return short, nil
		}
	}
	return short, layoutf("name %.80q: the folder has all of its short names", name)
}

// lookup returns the folder of a path and the entry of its last part, nil if there is none.
func (v *Volume) lookup(name string) (*folder, *Entry, error) {
	f, err := v.readFolder(v.root)
	if err != nil {
		return nil, nil, err
	}
	parts := strings.Split(name, "/")
	for _, part := range parts[:len(parts)-1] {
		e := f.find(part)
		if e == nil || !e.IsDir {
			return nil, nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		if f, err = v.readFolder(e.first); err != nil {
			return nil, nil, err
		}
	}
	return f, f.find(parts[len(parts)-1]), nil
}

// ReadDir lists a folder, "." for the root. The error wraps fs.ErrNotExist if there is none.
func (v *Volume) ReadDir(name string) ([]Entry, error) {
	f, err := v.folder(name)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(f.entries, func(e Entry) bool { return e.dot }), nil
}

func (v *Volume) folder(name string) (*folder, error) {
	if name == "." {
		return v.readFolder(v.root)
	}
	_, e, err := v.lookup(name)
	if err == nil && (e == nil || !e.IsDir) {
		err = &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if err != nil {
		return nil, err
	}
	return v.readFolder(e.first)
}
