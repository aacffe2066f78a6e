package cas

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ipfs/go-cid"
)

// AddDir makes a UnixFS folder of one block and calls put for it. The entries are sorted by
// name; the block is the one that Kubo writes for them. It refuses more than MaxLinks entries
// and the names that ReadDir refuses.
func AddDir(ctx context.Context, put PutFunc, entries []Link) (cid.Cid, error) {
	if len(entries) > MaxLinks {
		return cid.Undef, fmt.Errorf("folder: %d entries, the limit is %d", len(entries), MaxLinks)
	}
	for _, e := range entries {
		if err := CheckCID(e.CID); err != nil {
			return cid.Undef, fmt.Errorf("folder entry %.80q: %w", e.Name, err)
		}
	}
	entries = slices.SortedFunc(slices.Values(entries), func(a, b Link) int { return strings.Compare(a.Name, b.Name) })
	if err := checkEntries(entries); err != nil {
		return cid.Undef, err
	}
	block := encodeNode(entries, unixfs{kind: typeDir})
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
func ReadDir(ctx context.Context, src Source, c cid.Cid) ([]Link, error) {
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
	n, err := DecodeNode(c, block)
	if err == nil && !n.Dir {
		err = fmt.Errorf("UnixFS type %d, not a folder: %w", typeFile, ErrCorrupt)
	}
	if err != nil {
		return nil, fmt.Errorf("folder %s: %w", c, err)
	}
	return n.Links, nil
}

// checkEntries refuses names that are not in strictly ascending order, a name that is no plain
// file name, and a size that no file has.
func checkEntries(links []Link) error {
	for i, l := range links {
		if err := checkName(l.Name); err != nil {
			return err
		}
		if i > 0 && links[i-1].Name >= l.Name {
			return fmt.Errorf("folder entry %.80q: twice, or out of order: %w", l.Name, ErrCorrupt)
		}
		if err := checkSize(l.Tsize); err != nil {
			return fmt.Errorf("folder entry %.80q: %w", l.Name, err)
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
