package pack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/ipfs/go-cid"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/car"
)

// packHeader is the beginning of every pack: a pack is a CARv1 without roots.
const packHeader = car.NoRoots

// Overhead is the number of bytes of a pack that are not in sections.
const Overhead = len(packHeader)

// appendSection appends one block as a CAR section.
func appendSection(b []byte, key sectionKey, data []byte) []byte {
	return append(car.AppendHead(b, key[:], len(data)), data...)
}

func sectionLen(data int) int64 { return int64(car.SectionLen(data)) }

// A section is the position of a block in its pack.
type section struct {
	key    sectionKey
	offset int64 // of the block's data
	size   int   // of the data, at most MaxBlock
}

// start returns the offset of the section, which is that of its head.
func (s section) start() int64 { return s.offset - int64(car.HeadLen(s.size)) }

func (s section) end() int64 { return s.offset + int64(s.size) }

// parseHead parses b, the first car.MaxHead bytes of the section at an offset of a pack, or
// fewer at the end of the pack. The error for bytes that are no head of a section, or one with
// a CID that is not accepted, wraps cas.ErrCorrupt.
func parseHead(b []byte, at int64) (section, error) {
	h, ok := car.ParseHead(b)
	if !ok || h.Size > cas.MaxBlock {
		return section{}, fmt.Errorf("no section at byte %d: %w", at, cas.ErrCorrupt)
	}
	if !cas.IsCID(string(h.CID[:])) {
		return section{}, fmt.Errorf("section at byte %d: not a CID that is accepted: %w", at, cas.ErrCorrupt)
	}
	return section{key: h.CID, offset: at + int64(h.Len), size: h.Size}, nil
}

// cid returns the CID of a key for which cas.IsCID is true, as parseHead checks.
func (k sectionKey) cid() cid.Cid {
	c, _ := cid.Cast(k[:])
	return c
}

// readChecked reads the block of a section into *buf, which grows as needed, and checks its hash.
// A mismatch is a *cas.WrongError.
func (s section) readChecked(r io.ReaderAt, buf *[]byte) ([]byte, error) {
	data := slices.Grow((*buf)[:0], s.size)[:s.size]
	*buf = data
	if _, err := r.ReadAt(data, s.offset); err != nil {
		return nil, fmt.Errorf("block %s: %w", s.key.cid(), corruptIfShort(err))
	}
	return data, cas.Check(s.key.cid(), data)
}

// readHead reads the head of the section at an offset of r. The sections of r end at end.
func readHead(r io.ReaderAt, at, end int64, tmp *scratch) (section, error) {
	if at < int64(len(packHeader)) || at >= end {
		return section{}, fmt.Errorf("no section at byte %d of %d: %w", at, end, cas.ErrCorrupt)
	}
	b := tmp.head[:min(int64(car.MaxHead), end-at)]
	if _, err := r.ReadAt(b, at); err != nil {
		return section{}, corruptIfShort(err)
	}
	s, err := parseHead(b, at)
	if err == nil && s.end() > end {
		err = fmt.Errorf("section at byte %d runs over the end at %d: %w", at, end, cas.ErrCorrupt)
	}
	return s, err
}

// corruptIfShort turns the end of a file where more bytes were expected into a cas.ErrCorrupt.
func corruptIfShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("cut short: %w", cas.ErrCorrupt)
	}
	return err
}

// checkHeader returns an error if r does not begin with the header of a pack.
func checkHeader(r io.ReaderAt) error {
	b := make([]byte, len(packHeader))
	if _, err := r.ReadAt(b, 0); err != nil {
		return corruptIfShort(err)
	}
	if string(b) != packHeader {
		return fmt.Errorf("not a pack: %w", cas.ErrCorrupt)
	}
	return nil
}

// scanResult is the result of a scan.
type scanResult struct {
	sections map[sectionKey]int64 // offsets of heads
	end      int64                // end of the last good section
	bytes    int64                // of the blocks
	damaged  int                  // sections before end whose block does not hash to its CID
}

// scan reads the sections of a pack from one offset to another and hashes each block. It stops
// at bytes that are no section. A block that does not hash to its CID is not in the result.
// The error for more than most blocks wraps cas.ErrCorrupt.
func scan(ctx context.Context, r io.ReaderAt, from, to int64, most int) (scanResult, error) {
	found := scanResult{sections: make(map[sectionKey]int64), end: from}
	var buf []byte
	tmp := new(scratch)
	bad := 0
	for at := from; at < to; {
		if ctx.Err() != nil {
			return found, context.Cause(ctx)
		}
		s, err := readHead(r, at, to, tmp)
		if errors.Is(err, cas.ErrCorrupt) {
			return found, nil
		}
		if err != nil {
			return found, err
		}
		if len(found.sections)+bad > most {
			return found, fmt.Errorf("more than %d blocks without an index: %w", most, cas.ErrCorrupt)
		}
		_, err = s.readChecked(r, &buf)
		switch {
		case err == nil:
			found.sections[s.key], found.end, found.damaged = at, s.end(), bad
			found.bytes += int64(s.size)
		case errors.As(err, new(*cas.WrongError)):
			bad++
		default:
			return found, err
		}
		at = s.end()
	}
	return found, nil
}
