package imagebuild

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
)

// padded reads zeros after its bytes, like a sparse image.
type padded struct {
	data []byte
	size int64
}

func (p padded) ReadAt(b []byte, at int64) (int, error) {
	clear(b)
	if at < int64(len(p.data)) {
		copy(b, p.data[at:])
	}
	if at+int64(len(b)) > p.size {
		return int(max(0, p.size-at)), io.EOF
	}
	return len(b), nil
}

// FuzzArchive checks that each accepted name is unique and canonical, and that its folder
// comes before it.
func FuzzArchive(f *testing.F) {
	f.Add([]byte(dirMember("etc") + fileMember("etc/x", "text") + linkMember("y", "etc") + trailer))
	f.Add([]byte(fileMember("./x", "") + trailer))
	f.Add([]byte(trailer + trailer))
	f.Fuzz(func(t *testing.T, data []byte) {
		folders, seen := map[string]bool{".": true}, map[string]bool{}
		err := readArchive(bytes.NewReader(data), func(c cpioRecord) error {
			if seen[c.name] || path.Clean("/"+c.name) != "/"+c.name || !folders[path.Dir(c.name)] {
				t.Errorf("name %q was accepted", c.name)
			}
			seen[c.name], folders[c.name] = true, c.mode&modeType == modeDir
			return nil
		})
		if err != nil && !errors.Is(err, cas.ErrCorrupt) {
			t.Error(err)
		}
	})
}

// FuzzReadSettings checks that any input gives settings or cas.ErrCorrupt.
func FuzzReadSettings(f *testing.F) {
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x00, 0x01, 0x00, 0x00, 0x99, 0xe9, 0xd8, 0x51})
	a := newArchive()
	a.text("init", "program")
	a.text("etc/phase/role", "boot\n")
	out, err := emptyBuilder(f).compressed(f.Context(), Platform{}, a, time.Unix(1e9, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(out)
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := readSettings(bytes.NewReader(data), int64(len(data)))
		if err != nil && !errors.Is(err, cas.ErrCorrupt) {
			t.Error(err)
		}
		if err == nil && (s.init == "" || s.files["role"] == nil) {
			t.Errorf("accepted: %+v", s)
		}
	})
}

// FuzzLoaderEntry checks that an accepted entry names one initramfs and is printable.
func FuzzLoaderEntry(f *testing.F) {
	f.Add("title x\nsort-key phase-1\narchitecture x64\nlinux /phase/vmlinuz\ninitrd /phase/initramfs.zst\noptions console=tty0 phase.mode=local\n")
	f.Add("architecture aa64\nlinux /phase/arm64/vmlinuz\ninitrd /phase/arm64/initramfs.zst\noptions phase.mode=local\n")
	f.Add("architecture x64\nlinux /phase/vmlinuz\ninitrd /phase/initramfs.zst\ninitrd /x\n")
	f.Add("timeout 1\ndefault local[._]*\n")
	f.Fuzz(func(t *testing.T, text string) {
		e, err := readBootEntry(architectures[0], "local", text)
		arm, armErr := readBootEntry(architectures[1], "local", text)
		_, menuErr := readMenu(text)
		if err == nil && armErr == nil {
			t.Errorf("for both architectures: %+v, %+v", e, arm)
		}
		for _, err := range []error{err, armErr, menuErr} {
			if err != nil && (!errors.Is(err, cas.ErrCorrupt) || strings.ContainsRune(err.Error(), 0x1b)) {
				t.Errorf("%q", err)
			}
		}
		if err == nil && (strings.Count(text, "\ninitrd") > 1 || strings.ContainsFunc(e.Title+e.Cmdline, func(r rune) bool { return r < ' ' || r > '~' })) {
			t.Errorf("accepted %q", text)
		}
	})
}

// FuzzStanza checks that the file name of a package never has a folder.
func FuzzStanza(f *testing.F) {
	f.Add([]byte("Package: x\nFilename: pool/x/../x.deb\nSHA256: ABCD\n\nPackage: y\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if d := parseStanza(data); strings.ContainsRune(d.File, '/') && d.File != "/" {
			t.Errorf("file %q", d.File)
		}
		for _, s := range parseSources(string(data), "amd64") {
			if s.component != "main" || s.signedBy != "" && s.signedBy[0] != '/' {
				t.Errorf("source %+v", s)
			}
		}
	})
}

const smallFATSize = (fatReserved + fatTables*8 + 1000*espCluster) * sector

// smallFAT returns a filesystem with one file of five bytes, PHASE.
func smallFAT() []byte {
	b := make([]byte, (fatReserved+fatTables*8)*sector+2*clusterSize)
	boot := b[:sector]
	put16 := func(at int, v uint16) { binary.LittleEndian.PutUint16(boot[at:], v) }
	put32 := func(at int, v uint32) { binary.LittleEndian.PutUint32(boot[at:], v) }
	put16(11, sector)
	boot[13], boot[16] = espCluster, fatTables
	put16(14, fatReserved)
	put32(32, fatReserved+fatTables*8+1000*espCluster)
	put32(36, 8)
	put32(44, 2)
	put16(50, 6)
	copy(boot, "\xeb\x58\x90")
	copy(boot[82:], "FAT32   ")
	copy(boot[90:], bootCode)
	boot[510], boot[511] = 0x55, 0xaa
	copy(b[6*sector:], boot)
	for i := range fatTables {
		table := b[(fatReserved+8*i)*sector:]
		binary.LittleEndian.PutUint32(table[8:], 0x0fffffff)
		binary.LittleEndian.PutUint32(table[12:], 0x0fffffff)
	}
	root := b[(fatReserved+fatTables*8)*sector:]
	copy(root, "PHASE      ")
	root[26], root[28] = 3, 5
	return b
}

// FuzzFAT checks that no cluster belongs to two files and no file exceeds its clusters.
func FuzzFAT(f *testing.F) {
	f.Add(smallFAT())
	f.Fuzz(func(t *testing.T, data []byte) {
		const size = smallFATSize
		fs, err := openFAT(padded{data, size}, size)
		if err != nil {
			return
		}
		files, err := fs.files([]string{"efi"}, func(string) bool { return true })
		if err != nil {
			return
		}
		used := map[uint32]bool{}
		for name, file := range files {
			if int64(len(file.clusters))*clusterSize < file.size {
				t.Errorf("%s: %d bytes in %d clusters", name, file.size, len(file.clusters))
			}
			for _, c := range file.clusters {
				if used[c] {
					t.Errorf("cluster %d belongs to two files", c)
				}
				used[c] = true
			}
			if _, err := io.Copy(io.Discard, file.reader()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// FuzzTable checks that accepted partitions lie inside the image without a gap.
func FuzzTable(f *testing.F) {
	f.Add(make([]byte, 2*sector))
	f.Fuzz(func(t *testing.T, data []byte) {
		const size = 300 * mib
		p, err := readTable(padded{data, size}, size)
		if err == nil && (p.esp.start != firstPartition || p.cache.start != p.esp.start+p.esp.size || p.cache.start+p.cache.size > size) {
			t.Errorf("%+v", p)
		}
		// the checksums refuse most inputs, so the entries are also tried without them
		if len(data) >= gptTable {
			tab := &table{size: size}
			if err := tab.readEntries(data[:gptTable]); err == nil && tab.cache.start+tab.cache.size > size {
				t.Errorf("%+v", tab)
			}
		}
	})
}
