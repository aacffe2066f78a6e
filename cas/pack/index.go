package pack

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	mh "github.com/multiformats/go-multihash"
	"github.com/zeebo/blake3"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/car"
)

// The index of a pack is a MultihashIndexSorted (https://ipld.io/specs/transport/car/carv2/):
// for each hash function a bucket of records in the order of their digests, each record a
// digest and the offset of its section. A trailer follows, which readers of the standard
// ignore: a mark, the number of bytes of the pack that the index covers, and the BLAKE3 of
// everything before it. All numbers are little-endian.
const (
	indexCodec   = "\x81\x08" // 0x0401 as a varint
	indexRecord  = 32 + 8     // digest, offset
	indexMark    = "PHASEIX1"
	indexTrailer = len(indexMark) + 8 + 32
	indexHead    = len(indexCodec) + 4
	indexBucket  = 8 + 4 + 4 + 8 // hash code, 1 width, the width, bytes
	maxIndex     = 1 << 36       // bytes

	maxSamples = 1 << 17 // samples of one bucket in memory, of 4 bytes each, or 12
	window     = 128     // records that are read at a time
)

// A sectionKey is the binary form of a CID. The digest is its last 32 bytes.
type sectionKey [car.CIDLen]byte

const digestAt = car.CIDLen - 32

// encodeIndex returns the index file of sections, which covers the first covered bytes of a
// pack.
func encodeIndex(sections map[sectionKey]int64, covered int64) []byte {
	keys := slices.SortedFunc(maps.Keys(sections), func(a, b sectionKey) int {
		return cmp.Or(cmp.Compare(a[2], b[2]), bytes.Compare(a[digestAt:], b[digestAt:]), cmp.Compare(a[1], b[1]))
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
		b[len(indexCodec)]++ // the number of buckets, at most two
		b = appendBucket(b, code, n)
		for _, k := range keys[:n] {
			b = append(b, k[digestAt:]...)
			b = binary.LittleEndian.AppendUint64(b, uint64(sections[k]))
		}
		keys = keys[n:]
	}
	b = append(b, indexMark...)
	b = binary.LittleEndian.AppendUint64(b, uint64(covered))
	sum := blake3.Sum256(b)
	return append(b, sum[:]...)
}

// appendBucket appends the head of a bucket of n records.
func appendBucket(b []byte, code byte, n int) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(code))
	b = binary.LittleEndian.AppendUint32(b, 1)
	b = binary.LittleEndian.AppendUint32(b, indexRecord)
	return binary.LittleEndian.AppendUint64(b, uint64(n*indexRecord))
}

// packIndex is an open index file. Samples of its records are in memory; a search reads the
// few records between two samples. The file is read and not mapped: so the memory of a search
// does not grow with the file, and an error of the disk is an error and no signal.
type packIndex struct {
	file    *packFile
	buckets []bucket
	covered int64    // bytes of the pack that the index covers
	count   int      // number of records
	sum     [32]byte // the checksum at the end of the file

	samples *atomic.Int64 // counts the samples in memory
}

// A bucket is the records of one hash function, in the order of their digests.
type bucket struct {
	code    byte
	at      int64 // offset of the first record in the file
	count   int
	stride  int      // number of records from one sample to the next
	samples []uint32 // the first four bytes of digests
	offsets []int64  // of all records when stride is 1, else nil
}

// openIndex opens the index file of a pack and reads it once, to check it. The error for a
// damaged file, and for one that is larger than the size of its pack allows, wraps
// cas.ErrCorrupt.
func (p *Store) openIndex(ctx context.Context, path string, of *packFile) (*packIndex, error) {
	f, err := openPackFile(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	x := &packIndex{file: f, samples: &p.samples}
	if err := x.open(ctx, of); err != nil {
		return nil, errors.Join(fmt.Errorf("index %s: %w", path, err), x.close())
	}
	return x, nil
}

func (x *packIndex) open(ctx context.Context, of *packFile) error {
	tail, err := readTail(x.file)
	if err != nil {
		return err
	}
	if tail.mark != indexMark {
		return errNotIndex
	}
	pack, err := of.Size() // read after the index: a writer may be appending
	if err != nil {
		return err
	}
	if most := maxIndexOf(pack); tail.size > most {
		return fmt.Errorf("%d bytes, its pack of %d bytes allows %d: %w", tail.size, pack, most, cas.ErrCorrupt)
	}
	x.covered, x.sum = int64(tail.number), tail.sum
	return x.load(ctx, tail.size, tail.size-int64(indexTrailer), x.sampleLimit())
}

// maxIndexOf returns the largest size of an index of a pack of that many bytes.
func maxIndexOf(pack int64) int64 {
	records := min(maxListed, pack/sectionLen(0))
	return int64(indexHead+2*indexBucket+indexTrailer) + records*indexRecord
}

// sampleLimit returns the largest number of samples of one more bucket. It falls as the number
// of samples in memory grows.
func (x *packIndex) sampleLimit() int {
	const all, least = 1 << 20, 512
	return int(min(maxSamples, max(least, (all-x.samples.Load())/8)))
}

var errNotIndex = fmt.Errorf("not an index of this format: %w", cas.ErrCorrupt)

// indexTail is the trailer of an index file.
type indexTail struct {
	size   int64 // of the file
	mark   string
	number uint64 // covered bytes; of a merged index: number of packs
	sum    [32]byte
}

func readTail(f *packFile) (indexTail, error) {
	size, err := f.Size()
	if err != nil {
		return indexTail{}, err
	}
	t := indexTail{size: size}
	if t.size < int64(indexHead+indexTrailer) || t.size > maxIndex {
		return t, fmt.Errorf("%d bytes, not an index: %w", t.size, cas.ErrCorrupt)
	}
	var b [indexTrailer]byte
	if _, err := f.ReadAt(b[:], t.size-int64(indexTrailer)); err != nil {
		return t, corruptIfShort(err)
	}
	t.mark, t.number = string(b[:len(indexMark)]), binary.LittleEndian.Uint64(b[len(indexMark):])
	copy(t.sum[:], b[len(b)-32:])
	if t.number > 1<<62 {
		return t, errNotIndex
	}
	return t, nil
}

// load checks the checksum of the file and takes samples of its buckets, which end at the
// offset end. The checksum finds damage; an attacker can compute it too.
func (x *packIndex) load(ctx context.Context, size, end int64, samples int) error {
	h := blake3.New()
	all := contextReader{ctx, io.NewSectionReader(x.file, 0, size-32)}
	r := bufio.NewReaderSize(io.TeeReader(all, h), 256<<10)
	if err := x.parse(r, end, samples); err != nil {
		return corruptIfShort(err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	if [32]byte(h.Sum(nil)) != x.sum {
		return fmt.Errorf("checksum does not match: %w", cas.ErrCorrupt)
	}
	return nil
}

func (x *packIndex) parse(r *bufio.Reader, end int64, samples int) error {
	var b [indexBucket]byte
	if _, err := io.ReadFull(r, b[:indexHead]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(b[len(indexCodec):])
	if string(b[:len(indexCodec)]) != indexCodec || n > 2 {
		return errNotIndex
	}
	at, last := int64(indexHead), byte(0)
	for range n {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return err
		}
		at += indexBucket
		code, size := binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[16:])
		if (code != mh.SHA2_256 && code != mh.BLAKE3) || byte(code) <= last ||
			binary.LittleEndian.Uint32(b[8:]) != 1 || binary.LittleEndian.Uint32(b[12:]) != indexRecord ||
			size == 0 || size%indexRecord != 0 || at > end || size > uint64(end-at) {
			return errNotIndex
		}
		last = byte(code)
		k := bucket{code: last, at: at, count: int(size / indexRecord)}
		err := k.sample(r, samples)
		x.samples.Add(int64(len(k.samples)))
		x.buckets = append(x.buckets, k)
		if err != nil {
			return err
		}
		x.count += k.count
		at += int64(size)
	}
	if at != end {
		return errNotIndex
	}
	return nil
}

// sample reads the records of a bucket and takes at most most samples.
func (k *bucket) sample(r *bufio.Reader, most int) error {
	for k.stride = 1; k.count/k.stride >= most; {
		k.stride *= 2
	}
	k.samples = make([]uint32, 0, (k.count+k.stride-1)/k.stride)
	for i := 0; i < k.count; i += k.stride {
		b, err := r.Peek(indexRecord)
		if err != nil {
			return err
		}
		k.samples = append(k.samples, binary.BigEndian.Uint32(b))
		if k.stride == 1 {
			k.offsets = append(k.offsets, int64(binary.LittleEndian.Uint64(b[32:])))
		}
		if _, err := r.Discard(min(k.stride, k.count-i) * indexRecord); err != nil {
			return err
		}
	}
	return nil
}

// scratch is the memory that a search reads into.
type scratch struct {
	records [window * indexRecord]byte
	head    [car.MaxHead]byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// find calls f with the offset of every section that may be key's, until f returns true.
// Sections of the same digest with another codec are among them.
func (x *packIndex) find(key *sectionKey, tmp *scratch, f func(offset int64) bool) (bool, error) {
	for i := range x.buckets {
		if k := &x.buckets[i]; k.code == key[2] {
			return x.search(k, key[digestAt:], tmp, f)
		}
	}
	return false, nil
}

// search calls f with the offsets of the records of a digest. It may call f for a few other
// digests too; the caller compares the key in the pack.
func (x *packIndex) search(k *bucket, digest []byte, tmp *scratch, f func(offset int64) bool) (bool, error) {
	at, end := k.span(digest)
	if k.offsets != nil {
		return slices.ContainsFunc(k.offsets[at:end], func(offset int64) bool { return offset >= 0 && offset < 1<<62 && f(offset) }), nil
	}
	for ; at < end; at += window {
		records := tmp.records[:min(window, end-at)*indexRecord]
		if _, err := x.file.ReadAt(records, k.at+int64(at)*indexRecord); err != nil {
			return false, fmt.Errorf("index %s: %w", x.file.path, corruptIfShort(err))
		}
		for ; len(records) > 0; records = records[indexRecord:] {
			if !bytes.Equal(records[:32], digest) {
				continue
			}
			if offset := binary.LittleEndian.Uint64(records[32:]); offset < 1<<62 && f(int64(offset)) {
				return true, nil
			}
		}
	}
	return false, nil
}

// span returns the range of records that contains all records of a digest.
func (k *bucket) span(digest []byte) (from, to int) {
	first := binary.BigEndian.Uint32(digest)
	i := sort.Search(len(k.samples), func(i int) bool { return k.samples[i] >= first })
	j := i
	for j < len(k.samples) && k.samples[j] == first {
		j++
	}
	if k.stride > 1 && i > 0 {
		i-- // records of that digest may begin before their sample
	}
	return i * k.stride, min(j*k.stride, k.count)
}

// each calls f for every record.
func (x *packIndex) each(f func(code byte, digest []byte, offset int64)) error {
	for _, k := range x.buckets {
		r := x.reader(k)
		for range k.count {
			b, err := r.Peek(indexRecord)
			if err != nil {
				return fmt.Errorf("index %s: %w", x.file.path, corruptIfShort(err))
			}
			f(k.code, b[:32], int64(binary.LittleEndian.Uint64(b[32:])))
			r.Discard(indexRecord) // Peek has read them
		}
	}
	return nil
}

func (x *packIndex) reader(k bucket) *bufio.Reader {
	return bufio.NewReaderSize(io.NewSectionReader(x.file, k.at, int64(k.count)*indexRecord), 16<<10)
}

func (x *packIndex) close() error {
	for _, k := range x.buckets {
		x.samples.Add(-int64(len(k.samples)))
	}
	x.buckets = nil
	return x.file.close()
}
