package bucket

import (
	"context"
	"regexp"
	"strings"
)

const (
	packFolder = "packs/"
	packExt    = ".car"
	indexExt   = ".idx"
	markExt    = ".gone"
)

func packObject(name string) string  { return packFolder + name + packExt }
func indexObject(name string) string { return packFolder + name + indexExt }
func markObject(name string) string  { return packFolder + name + markExt }

// packName matches the names of packs: the time in milliseconds, and a random part.
var packName = regexp.MustCompile(`^[0-9a-f]{12}-[a-z2-7]{26}$`)

// A listing is the objects of the packs, by the names of their packs.
type listing struct{ packs, indexes, marks map[string]Object }

// committed reports whether a pack belongs to the store.
func (l listing) committed(name string) bool {
	_, pack := l.packs[name]
	_, index := l.indexes[name]
	return pack && index
}

// count returns the numbers of packs, and of blocks by the sizes of the indexes.
func (l listing) count() (n count) {
	for name, o := range l.indexes {
		if l.committed(name) {
			n.packs++
			n.blocks += max(0, int(o.Size)-indexHead-indexSum) / indexRecord
		}
	}
	return n
}

// list lists the objects of the packs. It leaves out objects that this package does not write.
func (s *Store) list(ctx context.Context) (listing, error) {
	l := listing{map[string]Object{}, map[string]Object{}, map[string]Object{}}
	objects, err := s.List(ctx, packFolder, 0)
	if err != nil {
		return l, err
	}
	for _, o := range objects {
		name := strings.TrimPrefix(o.Name, packFolder)
		for ext, kind := range map[string]map[string]Object{packExt: l.packs, indexExt: l.indexes, markExt: l.marks} {
			if base, ok := strings.CutSuffix(name, ext); ok && packName.MatchString(base) {
				kind[base] = o
			}
		}
	}
	return l, nil
}
