package imagebuild

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/phaseboot/phaseboot/cas"
)

// Limits for reading an EFI system partition.
const (
	fatReserved  = 32      // sectors before the first FAT
	fatTables    = 2       // copies of the FAT
	maxFATTable  = 8 << 20 // bytes: a partition of 8 GiB
	maxDirectory = 8       // clusters
	clusterSize  = espCluster * sector
	endOfChain   = 0x0ffffff8 // FAT entries from this value on end a cluster chain
)

// A fat reads a FAT32 filesystem as mkfs.vfat makes it for makeESP ("Microsoft EFI FAT32
// File System Specification", 1.03). Every cluster belongs to one file at most.
type fat struct {
	r     io.ReaderAt
	data  int64    // offset of cluster 2 in bytes
	table []uint32 // FAT entry of each cluster: the next cluster of its chain
	used  []bool   // clusters that belong to a file that was read
}

func badFAT(format string, args ...any) error {
	return fmt.Errorf("EFI system partition: %s: %w", fmt.Sprintf(format, args...), cas.ErrCorrupt)
}

// openFAT reads the boot sector and both copies of the FAT of a partition of size bytes.
// The copies must be equal, because firmware may use either.
func openFAT(r io.ReaderAt, size int64) (*fat, error) {
	reserved := make([]byte, fatReserved*sector)
	if _, err := r.ReadAt(reserved, 0); err != nil {
		return nil, badFAT("truncated")
	}
	boot := reserved[:sector]
	if !isFAT32(boot) {
		return nil, badFAT("not the FAT32 that phase-image makes")
	}
	if !bytes.Equal(boot, reserved[6*sector:7*sector]) {
		return nil, badFAT("the boot sector and its copy differ")
	}
	if err := checkReserved(reserved); err != nil {
		return nil, err
	}
	sectors, length := int64(binary.LittleEndian.Uint32(boot[32:])), int64(binary.LittleEndian.Uint32(boot[36:]))*sector
	f := &fat{r: r, data: fatReserved*sector + fatTables*length}
	clusters := (sectors*sector - f.data) / clusterSize
	unused := size - sectors*sector // mkfs.vfat ends with a whole track of 63 sectors
	if unused < 0 || unused >= 64*sector || length > maxFATTable || clusters <= 0 || (clusters+2)*4 > length {
		return nil, badFAT("sizes in the boot sector are inconsistent")
	}
	return f, f.readTables(clusters+2, length)
}

// bootCode is the program that mkfs.vfat writes into the boot sector. It prints the text
// that follows it.
var bootCode = []byte("\x0e\x1f\xbe\x77\x7c\xac\x22\xc0\x74\x0b\x56\xb4\x0e\xbb\x07\x00\xcd\x10\x5e\xeb\xf0\x32\xe4\xcd\x16\xcd\x19\xeb\xfe")

// checkReserved refuses reserved sectors from which firmware could boot something else than
// the files: another boot program, or a partition table.
func checkReserved(reserved []byte) error {
	const jump, codeAt, tableAt, tableEnd = "\xeb\x58\x90", 90, 440, 510
	boot := reserved[:sector]
	if string(boot[:3]) != jump || !bytes.HasPrefix(boot[codeAt:], bootCode) {
		return badFAT("boot code that mkfs.vfat did not write")
	}
	if !allZero(boot[tableAt:tableEnd]) {
		return badFAT("a partition table in its boot sector")
	}
	for i := 1; i < fatReserved; i++ {
		b := reserved[i*sector : (i+1)*sector]
		info := (i == 1 || i == 7) && string(b[:4]) == "RRaA" && allZero(b[4:484]) // how many clusters are free
		if i != 6 && !info && !allZero(b) {
			return badFAT("bytes between the boot sector and the FAT")
		}
	}
	return nil
}

// isFAT32 reports whether a boot sector has the parameters that makeESP uses.
func isFAT32(b []byte) bool {
	u16, u32 := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32
	return b[510] == 0x55 && b[511] == 0xaa && string(b[82:90]) == "FAT32   " &&
		u16(b[11:]) == sector && b[13] == espCluster && u16(b[14:]) == fatReserved && b[16] == fatTables &&
		u16(b[17:]) == 0 && u16(b[19:]) == 0 && u16(b[22:]) == 0 && // fields of FAT16 alone
		u16(b[40:]) == 0 && u16(b[42:]) == 0 && // both FATs are active; version 0
		u32(b[44:]) == 2 && u16(b[50:]) == 6 // root folder, copy of the boot sector
}

func (f *fat) readTables(entries, length int64) error {
	first, second := make([]byte, length), make([]byte, length)
	for i, b := range [][]byte{first, second} {
		if _, err := f.r.ReadAt(b, fatReserved*sector+int64(i)*length); err != nil {
			return badFAT("truncated")
		}
	}
	if !bytes.Equal(first, second) {
		return badFAT("the two copies of the FAT differ")
	}
	f.table, f.used = make([]uint32, entries), make([]bool, entries)
	for i := range f.table {
		f.table[i] = binary.LittleEndian.Uint32(first[4*i:]) & 0x0fffffff
	}
	return nil
}

// chain returns the clusters of a file that has exactly n of them, or at most limit if n is
// negative. A cluster that another chain uses is an error.
func (f *fat) chain(first uint32, n, limit int64) ([]uint32, error) {
	var list []uint32
	for at := first; ; at = f.table[at] {
		if at < 2 || int64(at) >= int64(len(f.table)) || f.used[at] {
			return nil, badFAT("a cluster chain leaves the filesystem or shares a cluster with another")
		}
		f.used[at] = true
		list = append(list, at)
		if int64(len(list)) > limit {
			return nil, badFAT("a cluster chain is longer than its file")
		}
		if f.table[at] >= endOfChain {
			break
		}
	}
	if n >= 0 && int64(len(list)) != n {
		return nil, badFAT("a cluster chain is shorter than its file")
	}
	return list, nil
}

// A fatFile is an io.ReaderAt over the clusters of a file.
type fatFile struct {
	fat      *fat
	clusters []uint32
	size     int64
}

// open returns the file of size bytes whose cluster chain begins at first.
func (f *fat) open(first uint32, size int64) (*fatFile, error) {
	n := (size + clusterSize - 1) / clusterSize
	if n == 0 {
		return &fatFile{fat: f}, nil
	}
	clusters, err := f.chain(first, n, n)
	return &fatFile{f, clusters, size}, err
}

func (f *fatFile) ReadAt(p []byte, at int64) (int, error) {
	done := 0
	for done < len(p) && at < f.size {
		in := at % clusterSize
		n := min(int64(len(p)-done), clusterSize-in, f.size-at)
		where := f.fat.data + int64(f.clusters[at/clusterSize]-2)*clusterSize + in
		if _, err := f.fat.r.ReadAt(p[done:done+int(n)], where); err != nil && !errors.Is(err, io.EOF) {
			return done, err
		}
		done, at = done+int(n), at+n
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

func (f *fatFile) reader() *io.SectionReader { return io.NewSectionReader(f, 0, f.size) }

// maxFolders bounds how deep folders are nested, where any folder is accepted.
const maxFolders = 8

// files returns every file by its path in lower case, because firmware ignores case. A
// folder that is not in dirs is an error unless dirs is nil, and a file for which allow returns false.
func (f *fat) files(dirs []string, allow func(name string) bool) (map[string]*fatFile, error) {
	found := map[string]*fatFile{}
	return found, f.walk("", 2, 0, dirs, func(name string, e fatEntry) error {
		if !allow(name) {
			return badFAT("%.80q: not written by phase-image, perhaps by a computer that mounted the stick; write the image again", name)
		}
		file, err := f.open(e.first, e.size)
		found[name] = file
		return err
	})
}

func (f *fat) walk(dir string, first, parent uint32, dirs []string, visit func(string, fatEntry) error) error {
	entries, err := f.readDir(dir, first, parent)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, strings.ToLower(e.name))
		if !e.dir {
			err = visit(name, e)
		} else if dirs == nil && strings.Count(name, "/") > maxFolders || dirs != nil && !slices.Contains(dirs, name) && !isRenewedFolder(name) {
			err = badFAT("folder %.80q: not written by phase-image, perhaps by a computer that mounted the stick; write the image again", name)
		} else {
			err = f.walk(name, e.first, first, dirs, visit)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
