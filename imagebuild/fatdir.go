package imagebuild

import (
	"encoding/binary"
	"slices"
	"strings"
	"unicode/utf16"
)

// Attributes and sizes of directory entries.
const (
	attrVolume = 0x08
	attrDir    = 0x10
	attrLong   = 0x0f // a long-name entry, which holds a part of a name
	dirEntry   = 32   // bytes
	longUnits  = 13   // UTF-16 units in a long-name entry
	maxLong    = 20   // long-name entries of one name
)

// A fatEntry is a file or folder. Firmware finds it by its long and by its short name.
type fatEntry struct {
	name  string // the long name, or else the short name
	short string
	dir   bool
	first uint32
	size  int64
}

// readDir reads the entries of the folder that begins at cluster first, without the volume
// label, "." and "..". Two entries with the same long or short name, ignoring case, are an
// error.
func (f *fat) readDir(dir string, first, parent uint32) ([]fatEntry, error) {
	clusters, err := f.chain(first, -1, maxDirectory)
	if err != nil {
		return nil, err
	}
	data := make([]byte, len(clusters)*clusterSize)
	folder := fatFile{f, clusters, int64(len(data))}
	if _, err := folder.ReadAt(data, 0); err != nil {
		return nil, err
	}
	p := dirParser{dir: dir, first: first, parent: parent}
	for ; len(data) > 0 && data[0] != 0; data = data[dirEntry:] {
		if err := p.add(data[:dirEntry]); err != nil {
			return nil, err
		}
	}
	if !allZero(data) || len(p.longParts) > 0 {
		return nil, badFAT("folder %.80q: bytes after its end", dir)
	}
	return p.entries, p.unique()
}

// A dirParser reads the entries of a folder in order.
type dirParser struct {
	dir           string
	first, parent uint32   // first clusters of the folder and of its parent, 0 for the root
	n             int      // entries read so far
	longParts     []string // parts of a long name, the last part first
	next          int      // number of the long-name entry that must follow
	checksum      byte     // checksum of the short name that belongs to the long name
	entries       []fatEntry
}

func (p *dirParser) add(b []byte) error {
	p.n++
	attr := b[11]
	switch {
	case b[0] == 0xe5: // deleted
		if len(p.longParts) > 0 {
			return p.bad("a long name without a file")
		}
		return nil
	case attr&0x3f == attrLong:
		return p.addLong(b)
	case attr&attrVolume != 0:
		if p.dir != "" || p.n != 1 || len(p.longParts) > 0 {
			return p.bad("a volume label in the wrong place")
		}
		return nil
	case b[0] == '.':
		return p.addDot(b)
	}
	return p.addShort(b)
}

func (p *dirParser) bad(what string) error { return badFAT("folder %.80q: %s", p.dir, what) }

// addLong reads a long-name entry. The entry with the last part of the name comes first.
func (p *dirParser) addLong(b []byte) error {
	number := int(b[0] &^ 0x40)
	if b[0]&0x40 != 0 {
		if len(p.longParts) > 0 || number > maxLong {
			return p.bad("an invalid long name")
		}
		p.next, p.checksum = number, b[13]
	}
	if number == 0 || number != p.next || b[13] != p.checksum || b[12] != 0 {
		return p.bad("an invalid long name")
	}
	piece := longNamePart(b)
	if len(p.longParts) > 0 && len(utf16.Encode([]rune(piece))) != longUnits { // firmware would end the name here
		return p.bad("an invalid long name")
	}
	p.next--
	p.longParts = append(p.longParts, piece)
	return nil
}

func longNamePart(b []byte) string {
	units := utf16Units(slices.Concat(b[1:11], b[14:26], b[28:32]))
	if end := slices.Index(units, 0); end >= 0 {
		units = units[:end]
	}
	return string(utf16.Decode(units))
}

// addDot checks "." and "..", the first two entries of every folder except the root.
func (p *dirParser) addDot(b []byte) error {
	want, name := p.first, ".          "
	if p.n == 2 {
		want, name = p.parent, "..         "
		if want == 2 {
			want = 0 // the root
		}
	}
	if p.dir == "" || p.n > 2 || len(p.longParts) > 0 || string(b[:11]) != name || b[11] != attrDir || firstCluster(b) != want {
		return p.bad(`an invalid "." or ".." entry`)
	}
	return nil
}

func (p *dirParser) addShort(b []byte) error {
	if p.dir != "" && p.n <= 2 {
		return p.bad(`no "." and ".." entries`)
	}
	e := fatEntry{short: shortName(b), dir: b[11]&attrDir != 0, first: firstCluster(b), size: int64(binary.LittleEndian.Uint32(b[28:]))}
	if e.name = e.short; len(p.longParts) > 0 {
		if p.next != 0 || p.checksum != shortNameChecksum(b[:11]) {
			return p.bad("an invalid long name")
		}
		slices.Reverse(p.longParts)
		e.name, p.longParts = strings.Join(p.longParts, ""), nil
	}
	if strings.ContainsFunc(e.name+e.short, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == '\\' }) {
		return badFAT("name %.80q: phase-image does not write such names", e.name)
	}
	p.entries = append(p.entries, e)
	return nil
}

func firstCluster(b []byte) uint32 {
	return uint32(binary.LittleEndian.Uint16(b[20:]))<<16 | uint32(binary.LittleEndian.Uint16(b[26:]))
}

func shortName(b []byte) string {
	base, extension := strings.TrimRight(string(b[:8]), " "), strings.TrimRight(string(b[8:11]), " ")
	if extension == "" {
		return base
	}
	return base + "." + extension
}

// shortNameChecksum returns the checksum of a short name, which its long-name entries repeat.
func shortNameChecksum(b []byte) byte {
	var sum byte
	for _, c := range b {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}

func (p *dirParser) unique() error {
	seen := map[string]bool{}
	for _, e := range p.entries {
		names := []string{strings.ToLower(e.name)}
		if short := strings.ToLower(e.short); short != names[0] {
			names = append(names, short)
		}
		for _, name := range names {
			if seen[name] {
				return badFAT("folder %.80q: repeated name %.80q", p.dir, name)
			}
			seen[name] = true
		}
	}
	return nil
}
