package cas

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ipfs/go-cid"
)

// An Entry is one file of a folder.
type Entry struct {
	Name string
	CID  cid.Cid
	Size int64 // dag-pb's Tsize, the bytes of all its blocks; unchecked, so nothing may rely on it
}

// AddDir makes a UnixFS folder of one block and calls put for it. The entries are sorted by
// name; the block is the one that Kubo writes for them. It refuses more than MaxLinks entries
// and the names that ReadDir refuses.
func AddDir(ctx context.Context, put PutFunc, entries []Entry) (cid.Cid, error) {
	if len(entries) > MaxLinks {
		return cid.Undef, fmt.Errorf("folder: %d entries, the limit is %d", len(entries), MaxLinks)
	}
	links := make([]link, len(entries))
	for i, e := range entries {
		if err := CheckCID(e.CID); err != nil {
			return cid.Undef, fmt.Errorf("folder entry %.80q: %w", e.Name, err)
		}
		if e.Size < 0 {
			return cid.Undef, fmt.Errorf("folder entry %.80q: %d bytes", e.Name, e.Size)
		}
		links[i] = link{cid: e.CID, name: e.Name, size: uint64(e.Size)}
	}
	slices.SortFunc(links, func(a, b link) int { return strings.Compare(a.name, b.name) })
	if err := checkNames(links); err != nil {
		return cid.Undef, err
	}
	block := encodeNode(links, unixfs{kind: typeDir})
	c := Sum(cid.DagProtobuf, block)
	if err := put(ctx, c, block); err != nil {
		return cid.Undef, err
	}
	return c, nil
}

// ReadDir reads a UnixFS folder of one block: at most MaxLinks entries in the order of
// their names, each name once. A name has 1 to MaxName bytes of UTF-8, is neither "." nor
// "..", and has no slash, backslash or control character. The error for any other folder
// wraps ErrCorrupt.
func ReadDir(ctx context.Context, src Source, c cid.Cid) ([]Entry, error) {
	if err := CheckCID(c); err != nil {
		return nil, err
	}
	if isRaw(c) {
		return nil, fmt.Errorf("folder %s: a raw block, not a folder: %w", c, ErrCorrupt)
	}
	block, err := Get(ctx, src, c)
	if err != nil {
		return nil, err
	}
	entries, err := decodeDir(block)
	if err != nil {
		return nil, fmt.Errorf("folder %s: %w", c, err)
	}
	return entries, nil
}

func decodeDir(block []byte) ([]Entry, error) {
	links, fs, err := decodeNode(block)
	if err != nil {
		return nil, err
	}
	if fs.kind != typeDir {
		return nil, fmt.Errorf("UnixFS type %d, not a folder: %w", fs.kind, ErrCorrupt)
	}
	if err := checkNames(links); err != nil {
		return nil, err
	}
	entries := make([]Entry, len(links))
	for i, l := range links {
		if err := checkSize(l.size); err != nil {
			return nil, fmt.Errorf("folder entry %.80q: %w", l.name, err)
		}
		entries[i] = Entry{Name: l.name, CID: l.cid, Size: int64(l.size)}
	}
	return entries, nil
}

// checkNames refuses names that are not in strictly ascending order, and a name that is no
// plain file name.
func checkNames(links []link) error {
	for i, l := range links {
		if err := checkName(l.name); err != nil {
			return err
		}
		if i > 0 && links[i-1].name >= l.name {
			return fmt.Errorf("folder entry %.80q: twice, or out of order: %w", l.name, ErrCorrupt)
		}
	}
	return nil
}

func checkName(name string) error {
	control := func(r rune) bool { return r < ' ' || r == 0x7f }
	if name == "" || name == "." || name == ".." || len(name) > MaxName || !utf8.ValidString(name) ||
		strings.ContainsAny(name, `/\`) || strings.ContainsFunc(name, control) {
		return fmt.Errorf("folder entry %.80q: not a plain file name: %w", name, ErrCorrupt)
	}
	return nil
}
