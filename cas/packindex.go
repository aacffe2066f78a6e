package cas

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"

	mh "github.com/multiformats/go-multihash"
	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"
)

// The index beside a pack is a CAR index of the standard's sorted kind
// (MultihashIndexSorted, https://ipld.io/specs/transport/car/carv2/): for each hash
// function the digests in order, each with the offset of its section. After it comes
// a trailer of ours, which readers of the standard do not look at: a mark, how many bytes
// of the pack are covered, and the BLAKE3 of everything before it. All numbers are
// little-endian.
const (
	indexCodec   = "\x81\x08" // 0x0401 as a varint
	indexRecord  = 32 + 8     // digest, offset
	indexMark    = "PHASEIX1"
	indexTrailer = len(indexMark) + 8 + 32
	indexHead    = len(indexCodec) + 4
	indexBucket  = 8 + 4 + 4 + 8 // hash code, 1 width, the width, bytes
	maxIndex     = 1 << 32       // bytes
)

// A sectionKey is the binary form of a CID that we read.
type sectionKey [cidLen]byte

// encodeIndex writes the index of sections over the first covered bytes of a pack.
func encodeIndex(sections map[sectionKey]int64, covered int64) []byte {
	keys := make([]sectionKey, 0, len(sections))
	for k := range sections {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b sectionKey) int {
		if a[2] != b[2] {
			return int(a[2]) - int(b[2])
		}
		if d := bytes.Compare(a[cidPrefix:], b[cidPrefix:]); d != 0 {
			return d
		}
		return int(a[1]) - int(b[1])
	})
	b := make([]byte, 0, indexHead+2*indexBucket+len(keys)*indexRecord+indexTrailer)
	b = append(b, indexCodec...)
	b = binary.LittleEndian.AppendUint32(b, 0)
	for len(keys) > 0 {
		code := keys[0][2]
		n := slices.IndexFunc(keys, func(k sectionKey) bool { return k[2] != code })
		if n < 0 {
			n = len(keys)
		}
		b[len(indexCodec)]++ // buckets: at most two
		b = binary.LittleEndian.AppendUint64(b, uint64(code))
		b = binary.LittleEndian.AppendUint32(b, 1)
		b = binary.LittleEndian.AppendUint32(b, indexRecord)
		b = binary.LittleEndian.AppendUint64(b, uint64(n*indexRecord))
		for _, k := range keys[:n] {
			b = append(b, k[cidPrefix:]...)
			b = binary.LittleEndian.AppendUint64(b, uint64(sections[k]))
		}
		keys = keys[n:]
	}
	b = append(b, indexMark...)
	b = binary.LittleEndian.AppendUint64(b, uint64(covered))
	sum := blake3.Sum256(b)
	return append(b, sum[:]...)
}

// packIndex is an index file, mapped.
type packIndex struct {
	data    []byte          // the whole file
	buckets map[byte][]byte // hash code to records, parts of data
	covered int64           // bytes of the pack that it speaks for
	count   int             // records
}

// openIndex checks and maps an index file. A damaged one wraps ErrCorrupt.
func openIndex(path string) (*packIndex, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := checkIndexSum(f)
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", path, err)
	}
	data, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("index %s: mmap: %w", path, err)
	}
	x := &packIndex{data: data}
	if fault := guard(func() { err = x.parse() }); fault != nil {
		err = fault
	}
	if err != nil {
		x.close()
		return nil, fmt.Errorf("index %s: %w", path, err)
	}
	return x, nil
}

// checkIndexSum reads the file once, not through a map: an I/O error is then an error.
func checkIndexSum(f *os.File) (int, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	size := fi.Size()
	if !fi.Mode().IsRegular() || size < int64(indexHead+indexTrailer) || size > maxIndex {
		return 0, fmt.Errorf("%d bytes, not an index: %w", size, ErrCorrupt)
	}
	h := blake3.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, size-32)); err != nil {
		return 0, err
	}
	want := make([]byte, 32)
	if _, err := f.ReadAt(want, size-32); err != nil {
		return 0, err
	}
	if string(h.Sum(nil)) != string(want) {
		return 0, fmt.Errorf("checksum does not match: %w", ErrCorrupt)
	}
	return int(size), nil
}

// parse finds the buckets in data. The checksum is no proof of good will.
func (x *packIndex) parse() error {
	bad := fmt.Errorf("not an index of ours: %w", ErrCorrupt)
	body, trailer := x.data[:len(x.data)-indexTrailer], x.data[len(x.data)-indexTrailer:]
	covered := binary.LittleEndian.Uint64(trailer[len(indexMark):])
	if string(trailer[:len(indexMark)]) != indexMark || string(body[:len(indexCodec)]) != indexCodec || covered > 1<<62 {
		return bad
	}
	x.covered = int64(covered)
	x.buckets = make(map[byte][]byte, 2)
	n := binary.LittleEndian.Uint32(body[len(indexCodec):])
	body = body[indexHead:]
	last := byte(0)
	for ; n > 0; n-- {
		if len(body) < indexBucket {
			return bad
		}
		code, size := binary.LittleEndian.Uint64(body), binary.LittleEndian.Uint64(body[16:])
		if (code != mh.SHA2_256 && code != mh.BLAKE3) || byte(code) <= last ||
			binary.LittleEndian.Uint32(body[8:]) != 1 || binary.LittleEndian.Uint32(body[12:]) != indexRecord {
			return bad
		}
		body = body[indexBucket:]
		if size == 0 || size%indexRecord != 0 || size > uint64(len(body)) {
			return bad
		}
		last = byte(code)
		x.buckets[last] = body[:size]
		x.count += int(size) / indexRecord
		body = body[size:]
	}
	if len(body) != 0 {
		return bad
	}
	return nil
}

// find calls f with the offset of every section that may be key's, until f says
// true. Sections of the same digest under another codec are among them.
func (x *packIndex) find(key sectionKey, f func(offset int64) bool) bool {
	records := x.buckets[key[2]]
	digest := key[cidPrefix:]
	n := len(records) / indexRecord
	lo, hi := 0, n
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if lessDigest(records[mid*indexRecord:], digest) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	for ; lo < n && !lessDigest(digest, records[lo*indexRecord:]); lo++ {
		offset := binary.LittleEndian.Uint64(records[lo*indexRecord+32:])
		if offset < 1<<62 && f(int64(offset)) {
			return true
		}
	}
	return false
}

// each calls f for every record.
func (x *packIndex) each(f func(code byte, digest []byte, offset int64)) {
	for code, records := range x.buckets {
		for ; len(records) > 0; records = records[indexRecord:] {
			f(code, records[:32], int64(binary.LittleEndian.Uint64(records[32:])))
		}
	}
}

func (x *packIndex) close() error {
	data := x.data
	x.data, x.buckets = nil, nil
	return unix.Munmap(data)
}

// lessDigest compares 32 bytes in plain Go, where a fault of mapped memory can be
// caught.
func lessDigest(a, b []byte) bool {
	for i := 0; i < 32; i += 8 {
		x, y := binary.BigEndian.Uint64(a[i:]), binary.BigEndian.Uint64(b[i:])
		if x != y {
			return x < y
		}
	}
	return false
}

// guard runs f, which reads mapped memory, and turns a fault (the file was cut
// short, the disk gave an I/O error) into an error.
func guard(f func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		fault, ok := r.(interface {
			error
			Addr() uintptr
		})
		if !ok {
			panic(r)
		}
		err = fmt.Errorf("mapped file: %w (%w)", fault, ErrCorrupt)
	}()
	f()
	return nil
}
