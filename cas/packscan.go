package cas

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/ipfs/go-cid"
)

// A pack is a CARv1 (https://ipld.io/specs/transport/car/carv1/) without roots: this
// header, then sections of varint length, CID and data.
const packHeader = "\x11\xa2\x65roots\x80\x67version\x01"

// PackOverhead is what a pack takes beyond its sections, in bytes.
const PackOverhead = len(packHeader)

// maxHead is the longest head of a section: a length of at most three bytes and
// the CID.
const maxHead = 3 + cidLen

// appendSection appends one block as a CAR section.
func appendSection(b []byte, key sectionKey, data []byte) []byte {
	b = binary.AppendUvarint(b, uint64(cidLen+len(data)))
	b = append(b, key[:]...)
	return append(b, data...)
}

func sectionLen(data int) int64 {
	n := cidLen + data
	return int64(len(binary.AppendUvarint(nil, uint64(n))) + n)
}

// A section is where a block is in its pack.
type section struct {
	key    sectionKey
	offset int64 // of the block's data
	size   int   // of the data, at most MaxBlock
}

func (s section) end() int64 { return s.offset + int64(s.size) }

// parseHead reads the head of the section at an offset of a pack from b, which holds
// maxHead bytes or all that there are. A head that is not ours wraps ErrCorrupt.
func parseHead(b []byte, at int64) (section, error) {
	n, k := binary.Uvarint(b[:min(3, len(b))])
	if k <= 0 || (k > 1 && b[k-1] == 0) || n < cidLen || n > cidLen+MaxBlock || len(b) < k+cidLen {
		return section{}, fmt.Errorf("no section at byte %d: %w", at, ErrCorrupt)
	}
	var key sectionKey
	copy(key[:], b[k:])
	if !readable(string(key[:])) {
		return section{}, fmt.Errorf("section at byte %d: not a name that is read: %w", at, ErrCorrupt)
	}
	return section{key: key, offset: at + int64(k) + cidLen, size: int(n) - cidLen}, nil
}

func keyCID(key sectionKey) (cid.Cid, error) {
	c, err := cid.Cast(key[:])
	if err != nil {
		return cid.Undef, fmt.Errorf("%w (%w)", err, ErrCorrupt)
	}
	return c, nil
}

// readHead reads the head of the section at an offset of r, whose bytes end at end.
func readHead(r io.ReaderAt, at, end int64, tmp *scratch) (section, error) {
	if at < int64(len(packHeader)) || at >= end {
		return section{}, fmt.Errorf("no section at byte %d of %d: %w", at, end, ErrCorrupt)
	}
	b := tmp.head[:min(int64(maxHead), end-at)]
	if _, err := r.ReadAt(b, at); err != nil {
		return section{}, cutShort(err)
	}
	s, err := parseHead(b, at)
	if err == nil && s.end() > end {
		err = fmt.Errorf("section at byte %d runs over the end at %d: %w", at, end, ErrCorrupt)
	}
	return s, err
}

// cutShort makes the end of a file where bytes were due an ErrCorrupt.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("cut short: %w", ErrCorrupt)
	}
	return err
}

// checkHeader reports whether r begins as our packs do.
func checkHeader(r io.ReaderAt) error {
	b := make([]byte, len(packHeader))
	if _, err := r.ReadAt(b, 0); err != nil {
		return cutShort(err)
	}
	if string(b) != packHeader {
		return fmt.Errorf("not a pack of ours: %w", ErrCorrupt)
	}
	return nil
}

// scanned is what a scan found.
type scanned struct {
	sections map[sectionKey]int64 // offsets of heads
	end      int64                // of the last good section
	bytes    int64                // of the blocks
	bad      int                  // sections before end whose data does not match
}

// scan walks the sections of a pack from one offset to another and hashes each
// block. It stops where the framing ends; a block that does not match its name is left
// out, so what is found can be handed out. More than most blocks wrap ErrCorrupt.
func scan(ctx context.Context, r io.ReaderAt, from, to int64, most int) (scanned, error) {
	found := scanned{sections: make(map[sectionKey]int64), end: from}
	var data []byte
	tmp := new(scratch)
	bad := 0
	for at := from; at < to; {
		if ctx.Err() != nil {
			return found, context.Cause(ctx)
		}
		s, err := readHead(r, at, to, tmp)
		if errors.Is(err, ErrCorrupt) {
			return found, nil
		}
		if err != nil {
			return found, err
		}
		data = slices.Grow(data[:0], s.size)[:s.size]
		if _, err := r.ReadAt(data, s.offset); err != nil {
			return found, cutShort(err)
		}
		c, err := keyCID(s.key)
		if err != nil {
			return found, err
		}
		if len(found.sections)+bad > most {
			return found, fmt.Errorf("more than %d blocks without an index: %w", most, ErrCorrupt)
		}
		if Check(c, data) == nil {
			found.sections[s.key], found.end, found.bad = at, s.end(), bad
			found.bytes += int64(s.size)
		} else {
			bad++
		}
		at = s.end()
	}
	return found, nil
}
