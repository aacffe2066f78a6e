package imagebuild

import (
	"cmp"
	"context"
	"crypto/sha256"
	"debug/pe"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// A Difference is the first part in which an image differs from its rebuild.
type Difference struct {
	// Part is the path of the part from the outside to the inside: a partition, a file in it, a section of
	// a UKI, a member of an initramfs.
	Part    []string `json:"part"`
	SHA256  string   `json:"sha256"`         // of the part in the image; "" if it has none
	Rebuilt string   `json:"rebuilt_sha256"` // of the part in the rebuild; "" if it has none
	Note    string   `json:"note,omitempty"` // what is known beside the digests
}

// String names the part with both digests, as diffoscope does.
func (d *Difference) String() string {
	sum := func(s string) string { return cmp.Or(s, "none") }
	text := fmt.Sprintf("%s: sha256 %s, rebuilt %s", quotedPath(d.Part), sum(d.SHA256), sum(d.Rebuilt))
	if d.Note != "" {
		text += " (" + d.Note + ")"
	}
	return text
}

// quotedPath joins the names of a part. Those of an image may contain any character.
func quotedPath(part []string) string {
	words := make([]string, len(part))
	for i, w := range part {
		if words[i] = w; strings.ContainsFunc(w, func(r rune) bool { return r < ' ' || r > '~' }) || len(w) > 120 {
			words[i] = fmt.Sprintf("%.120q", w)
		}
	}
	return strings.Join(words, ", ")
}

// A blob is a range of bytes of an image or of its rebuild.
type blob struct {
	r    io.ReaderAt
	size int64
}

func (b blob) at(s span) blob { return blob{io.NewSectionReader(b.r, s.start, s.size), s.size} }

// sum returns the digest of a range, also of one that is cut short; "" if it cannot be read.
func (b blob) sum() string {
	s, err := sumOf(io.NewSectionReader(b.r, 0, b.size))
	if err != nil {
		return ""
	}
	return s
}

// A differ looks for the first difference. here is always the image, again the rebuild, which is
// known to be whole.
type differ struct {
	ctx     context.Context
	renewed bool // the image has boot sets that were written later, beside its own files
}

// plain compares a part as a whole.
func (d differ) plain(part []string, here, again blob) *Difference {
	a, z := here.sum(), again.sum()
	if a == z && a != "" || d.ctx.Err() != nil {
		return nil
	}
	return &Difference{Part: slices.Clone(part), SHA256: a, Rebuilt: z}
}

// within compares a part that consists of others: it returns the difference that look finds in them, and else
// that of the whole.
func (d differ) within(part []string, here, again blob, rest string, look func() *Difference) *Difference {
	whole := d.plain(part, here, again)
	if whole == nil {
		return nil
	}
	if inner := look(); inner != nil || d.ctx.Err() != nil {
		return inner
	}
	whole.Note = rest
	return whole
}

// file compares a file by its kind.
func (d differ) file(part []string, here, again blob) *Difference {
	head := make([]byte, 4)
	if _, err := again.r.ReadAt(head, 0); err != nil {
		return d.plain(part, here, again)
	}
	switch {
	case string(head) == "\x28\xb5\x2f\xfd":
		return d.initramfs(part, here, again)
	case string(head[:2]) == "MZ":
		return d.program(part, here, again)
	}
	return d.plain(part, here, again)
}

// program compares the sections of an EFI program.
func (d differ) program(part []string, here, again blob) *Difference {
	return d.within(part, here, again, "every section is equal; the header, the padding or the signature differs", func() *Difference {
		a, z := sectionsOf(here), sectionsOf(again)
		for _, name := range slices.Compact(slices.Sorted(maps.Keys(z))) {
			one, ok := a[name]
			if !ok {
				return &Difference{Part: append(slices.Clone(part), "section "+name), Rebuilt: z[name].sum()}
			}
			if diff := d.file(append(slices.Clone(part), "section "+name), one, z[name]); diff != nil {
				return diff
			}
		}
		return nil
	})
}

// sectionsOf returns the sections of an EFI program by name, none if it cannot be read.
func sectionsOf(b blob) map[string]blob {
	f, err := pe.NewFile(io.NewSectionReader(b.r, 0, b.size))
	if err != nil {
		return nil
	}
	all := map[string]blob{}
	for _, s := range f.Sections {
		all[s.Name] = b.at(span{int64(s.Offset), int64(min(s.VirtualSize, s.Size))})
	}
	return all
}

// archived is a member of an initramfs.
type archived struct {
	name string
	mode uint32
	sum  string
}

// initramfs compares the members of two archives in their order, which is that of their names.
func (d differ) initramfs(part []string, here, again blob) *Difference {
	return d.within(part, here, again, "every member is equal; the archive was compressed in another way, perhaps by another version of zstd", func() *Difference {
		a, broken := membersOf(here)
		z, err := membersOf(again)
		if err != nil {
			return nil
		}
		unread := fmt.Sprintf("the image cannot be read from here on: %v", broken)
		for i, j := 0, 0; i < len(a) || j < len(z); i, j = i+1, j+1 {
			switch {
			case len(a) == 0:
				return &Difference{Part: part, SHA256: here.sum(), Rebuilt: again.sum(), Note: unread}
			case i == len(a) && broken != nil:
				return &Difference{Part: append(slices.Clone(part), z[j].name), Rebuilt: z[j].sum, Note: unread}
			case j == len(z) || i < len(a) && a[i].name < z[j].name:
				return &Difference{Part: append(slices.Clone(part), a[i].name), SHA256: a[i].sum}
			case i == len(a) || a[i].name > z[j].name:
				return &Difference{Part: append(slices.Clone(part), z[j].name), Rebuilt: z[j].sum}
			case a[i].sum != z[j].sum:
				return &Difference{Part: append(slices.Clone(part), a[i].name), SHA256: a[i].sum, Rebuilt: z[j].sum}
			case a[i].mode != z[j].mode:
				return &Difference{Part: append(slices.Clone(part), a[i].name), SHA256: a[i].sum, Rebuilt: z[j].sum, Note: fmt.Sprintf("mode %o, rebuilt %o", a[i].mode, z[j].mode)}
			}
		}
		return nil
	})
}

// membersOf lists the members of an initramfs. With an error, it lists those before.
func membersOf(b blob) (all []archived, err error) {
	z, err := openFrame(b.r, b.size)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	err = readArchive(z, func(c cpioRecord) error {
		h := sha256.New()
		if n, err := io.Copy(h, c.body); err != nil || n != int64(c.size) {
			return errors.Join(err, io.ErrUnexpectedEOF)
		}
		all = append(all, archived{c.name, c.mode, hex.EncodeToString(h.Sum(nil))})
		return nil
	})
	return all, err
}

// fat compares the files of two EFI system partitions. If that of the image cannot be read, its files are
// expected where the rebuild has them.
func (d differ) fat(part []string, here, again blob) *Difference {
	in := d.within
	if d.renewed { // the FAT and the folders differ
		in = func(_ []string, _, _ blob, _ string, look func() *Difference) *Difference { return look() }
	}
	return in(part, here, again, "every file is equal; the boot sector, the FAT or a folder differs", func() *Difference {
		z, err := allFiles(again)
		if err != nil {
			return nil
		}
		a, err := allFiles(here)
		if err != nil {
			a = map[string]*fatFile{}
			for name, f := range z {
				a[name] = &fatFile{&fat{r: here.r, data: f.dataStart()}, f.clusters, f.size}
			}
		}
		names := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(z))
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			if d.renewed && z[name] == nil && isRenewed(name) {
				continue
			}
			inner := append(slices.Clone(part), name)
			switch {
			case a[name] == nil:
				return &Difference{Part: inner, Rebuilt: z[name].blob().sum()}
			case z[name] == nil:
				return &Difference{Part: inner, SHA256: a[name].blob().sum()}
			}
			if diff := d.file(inner, a[name].blob(), z[name].blob()); diff != nil {
				return diff
			}
		}
		return nil
	})
}

// allFiles returns the files of a partition, of any name.
func allFiles(b blob) (map[string]*fatFile, error) {
	f, err := openFAT(b.r, b.size)
	if err != nil {
		return nil, err
	}
	return f.files(nil, func(string) bool { return true })
}

func (f *fatFile) blob() blob { return blob{f, f.size} }

// dataStart returns the offset of the clusters in the partition. An empty file has none.
func (f *fatFile) dataStart() int64 {
	if f.fat == nil {
		return 0
	}
	return f.fat.data
}

// partitions compares the partitions that firmware reads. The layout is that of the rebuild.
func (d differ) partitions(here, again blob, t *table) *Difference {
	for _, p := range []struct {
		name string
		at   span
	}{{espName, t.esp}, {"second EFI system partition (GRUB)", t.fallback}} {
		if p.at.size == 0 {
			continue
		}
		if diff := d.fat([]string{p.name}, here.at(p.at), again.at(p.at)); diff != nil {
			return diff
		}
	}
	return nil
}

// disk compares two raw disks: first the partitions that firmware reads, then the tables. skipCache leaves out
// the cache partition, to which machines write.
func (d differ) disk(here, again blob, t *table, skipCache bool) *Difference {
	if diff := d.partitions(here, again, t); diff != nil {
		return diff
	}
	if !skipCache {
		if diff := d.plain([]string{"cache partition"}, here.at(t.cache), again.at(t.cache)); diff != nil {
			return diff
		}
	}
	end := t.cache.start + t.cache.size
	return cmp.Or(
		d.plain([]string{"partition table"}, here.at(span{0, firstPartition}), again.at(span{0, firstPartition})),
		d.plain([]string{"backup of the partition table"}, here.at(span{end, t.size - end}), again.at(span{end, t.size - end})),
	)
}

// disc compares two ISO images.
func (d differ) disc(here, again blob, esp span) *Difference {
	end := esp.start + esp.size
	return cmp.Or(
		d.fat([]string{espName}, here.at(esp), again.at(esp)),
		d.plain([]string{"descriptors of the CD and partition table"}, here.at(span{0, esp.start}), again.at(span{0, esp.start})),
		d.plain([]string{"backup of the partition table"}, here.at(span{end, again.size - end}), again.at(span{end, again.size - end})),
	)
}
