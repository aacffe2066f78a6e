package bucket

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/phaseboot/phaseboot/internal/file"
)

// Packs are read and kept in segments. A read of the segment behind one that is there is taken to
// be one of many in a row: then a window of segments is read with one request, and, when the
// reader arrives at the window, the next one in the background.
const (
	segment        = 256 << 10 // bytes
	windowSegments = 16
	prefetches     = 8  // windows that are read in the background at once
	maxFetches     = 32 // windows that are read for callers at once
)

// CacheOptions are the place and the size of a cache of segments.
type CacheOptions struct {
	Dir  string // folder, made when missing; "" for memory
	Size int64  // bytes; DefaultMemoryCache or DefaultDiskCache when 0
}

// The sizes of a cache, when none is named.
const (
	DefaultMemoryCache = 64 << 20
	DefaultDiskCache   = 4 << 30
)

const minCache = 2 * windowSegments * segment

type segmentKey struct {
	pack string
	n    int64
}

// name is the name of the file of a segment.
func (k segmentKey) name() string { return k.pack + "." + strconv.FormatInt(k.n, 10) }

// A segments keeps segments, and drops the least recently used.
type segments interface {
	get(k segmentKey) ([]byte, bool)
	has(k segmentKey) bool
	put(k segmentKey, data []byte)
	drop(k segmentKey)
	close() error
}

// cache reads sections of packs through segments. Segments are unchecked, as everything that is
// read from an object store: the caller hashes blocks, and drops segments with wrong bytes.
type cache struct {
	bucket   *Bucket
	segments segments

	mu      sync.Mutex
	flights map[segmentKey]*flight
	ahead   map[segmentKey]int64 // reading such a segment starts the window from another one
	slots   chan struct{}        // one for each prefetch
	fetches chan struct{}        // one for each window that is read for a caller
}

// A flight is a segment that is being read.
type flight struct {
	done chan struct{}
	data []byte
	err  error
}

func newCache(b *Bucket, o CacheOptions) (*cache, error) {
	c := &cache{bucket: b, flights: map[segmentKey]*flight{}, ahead: map[segmentKey]int64{}, slots: make(chan struct{}, prefetches), fetches: make(chan struct{}, maxFetches)}
	size := o.Size
	if size == 0 {
		size = DefaultMemoryCache
		if o.Dir != "" {
			size = DefaultDiskCache
		}
	}
	if size < minCache {
		return nil, fmt.Errorf("cache of %d bytes: too small (%w); use %d MiB or more", size, fs.ErrInvalid, minCache>>20)
	}
	var err error
	if o.Dir != "" {
		c.segments, err = openDiskSegments(o.Dir, int(size/segment))
	} else {
		c.segments, err = newMemorySegments(int(size / segment))
	}
	return c, err
}

func (c *cache) close() error { return c.segments.close() }

// read returns n bytes of a pack from an offset. The caller must not change them.
func (c *cache) read(ctx context.Context, p *packed, at int64, n int) ([]byte, error) {
	first, last := at/segment, (at+int64(n)-1)/segment
	if first == last {
		data, err := c.segment(ctx, p, first)
		from := int(at - first*segment)
		if err == nil && len(data) < from+n {
			err = fmt.Errorf("object %s/%s: segment %d is short: %w", c.bucket, p.object(), first, fs.ErrNotExist)
		}
		if err != nil {
			return nil, err
		}
		return data[from : from+n : from+n], nil
	}
	out := make([]byte, 0, n)
	for i := first; i <= last; i++ {
		data, err := c.segment(ctx, p, i)
		if err != nil {
			return nil, err
		}
		from := max(at-i*segment, 0)
		to := min(at+int64(n)-i*segment, int64(len(data)))
		if from > to {
			break
		}
		out = append(out, data[from:to]...)
	}
	return out, nil
}

// drop removes the segments of n bytes from an offset.
func (c *cache) drop(p *packed, at int64, n int) {
	for i := at / segment; i <= (at+int64(n)-1)/segment; i++ {
		c.segments.drop(segmentKey{p.name, i})
	}
}

// segment returns segment i of a pack.
func (c *cache) segment(ctx context.Context, p *packed, i int64) ([]byte, error) {
	k := segmentKey{p.name, i}
	for {
		f, there := c.flight(p, i)
		if there { // read outside of the lock, because it may be on a disk
			if data, ok := c.segments.get(k); ok && int64(len(data)) == segmentLen(p, i) {
				return data, nil
			}
			c.segments.drop(k)
			continue
		}
		if f == nil { // a caller that gives up leaves at most one window in memory, and few callers may
			select {
			case c.fetches <- struct{}{}:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			if f = c.begin(ctx, p, i); f == nil {
				continue
			}
		}
		select {
		case <-f.done:
			return f.data, f.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// flight returns the flight of segment i of a pack, nil if there is none, and reports whether the segment is there.
func (c *cache) flight(p *packed, i int64) (f *flight, there bool) {
	k := segmentKey{p.name, i}
	c.mu.Lock()
	defer c.mu.Unlock()
	if next, ok := c.ahead[k]; ok {
		delete(c.ahead, k)
		c.prefetch(p, next)
	}
	f = c.flights[k]
	return f, f == nil && c.segments.has(k)
}

// begin begins to read a window from segment i of a pack, and returns the flight of that segment. The caller has a place
// in c.fetches, which ends with the window. It returns nil if the segment has come, or is being read, meanwhile.
func (c *cache) begin(ctx context.Context, p *packed, i int64) *flight {
	k := segmentKey{p.name, i}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flights[k] != nil || c.segments.has(k) {
		<-c.fetches
		return nil
	}
	window := c.window(p, i)
	go func() {
		defer func() { <-c.fetches }()
		c.fetch(context.WithoutCancel(ctx), p, window) // others may wait for it
	}()
	return c.flights[k]
}

// window begins the flights of the segments that are to be read together with segment i: i alone,
// or a whole window when the segment before it is there. c.mu is held.
func (c *cache) window(p *packed, i int64) []int64 {
	most := 1
	before := segmentKey{p.name, i - 1}
	if c.segments.has(before) || c.flights[before] != nil {
		most = windowSegments
		if len(c.ahead) > 4096 {
			clear(c.ahead) // of readers that went elsewhere
		}
		c.ahead[segmentKey{p.name, i + 1}] = i + windowSegments
	}
	var list []int64
	for n := i; len(list) < most && segmentLen(p, n) > 0; n++ {
		k := segmentKey{p.name, n}
		if c.flights[k] != nil || n > i && c.segments.has(k) {
			break
		}
		c.flights[k] = &flight{done: make(chan struct{})}
		list = append(list, n)
	}
	return list
}

// prefetch reads the window from segment i in the background, unless it is there or too much is
// read already. c.mu is held.
func (c *cache) prefetch(p *packed, i int64) {
	k := segmentKey{p.name, i}
	if segmentLen(p, i) <= 0 || c.flights[k] != nil || c.segments.has(k) {
		return
	}
	select {
	case c.slots <- struct{}{}:
	default:
		return
	}
	window := c.window(p, i)
	go func() {
		defer func() { <-c.slots }()
		c.fetch(context.Background(), p, window)
	}()
}

// segmentLen is the length of segment i of a pack, 0 or less behind its end.
func segmentLen(p *packed, i int64) int64 { return min(segment, p.size-i*segment) }

// fetch reads consecutive segments with one request and ends their flights.
func (c *cache) fetch(ctx context.Context, p *packed, list []int64) {
	parts := make([][]byte, len(list))
	for i, n := range list {
		parts[i] = make([]byte, segmentLen(p, n))
	}
	ended := 0
	end := func(i int, err error) {
		k := segmentKey{p.name, list[i]}
		c.mu.Lock()
		f := c.flights[k]
		delete(c.flights, k)
		c.mu.Unlock()
		if f.err = err; err == nil {
			f.data = parts[i]
		}
		close(f.done)
		ended = i + 1
	}
	err := c.bucket.ReadParts(ctx, p.object(), list[0]*segment, parts, func(i int) {
		c.segments.put(segmentKey{p.name, list[i]}, parts[i])
		end(i, nil)
	})
	for ended < len(list) {
		end(ended, err)
	}
}

// memorySegments are segments in memory.
type memorySegments struct {
	lru *lru.Cache[segmentKey, []byte]
}

func newMemorySegments(n int) (memorySegments, error) {
	l, err := lru.New[segmentKey, []byte](n)
	return memorySegments{l}, err
}

func (m memorySegments) get(k segmentKey) ([]byte, bool) { return m.lru.Get(k) }
func (m memorySegments) has(k segmentKey) bool           { return m.lru.Contains(k) }
func (m memorySegments) put(k segmentKey, data []byte)   { m.lru.Add(k, data) }
func (m memorySegments) drop(k segmentKey)               { m.lru.Remove(k) }
func (m memorySegments) close() error                    { m.lru.Purge(); return nil }

// diskSegments are segments in the files of a folder. Files are not synced: a torn one has another
// length, or its blocks have another hash.
type diskSegments struct {
	dir  string
	lock *os.File
	lru  *lru.Cache[segmentKey, struct{}]
}

const (
	cacheLock  = "lock"
	maxEntries = 1 << 20
)

// openDiskSegments takes the segments of an earlier process over, the oldest to be dropped first.
func openDiskSegments(dir string, n int) (*diskSegments, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	lock, err := file.OpenFile(filepath.Join(dir, cacheLock), os.O_RDWR|os.O_CREATE|file.NoFollow, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	if err := file.TryLock(lock); errors.Is(err, file.ErrLocked) {
		lock.Close()
		return nil, fmt.Errorf("cache %s: another process uses it; name another folder with --cache", dir)
	}
	d := &diskSegments{dir: dir, lock: lock}
	if d.lru, err = lru.NewWithEvict(n, func(k segmentKey, _ struct{}) { os.Remove(d.path(k)) }); err == nil {
		err = d.load()
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return d, nil
}

func (d *diskSegments) load() error {
	entries, err := file.ReadDir(d.dir, maxEntries)
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	type old struct {
		segmentKey
		used int64
	}
	var all []old
	for _, e := range entries {
		pack, n, ok := strings.Cut(e.Name(), ".")
		i, err := strconv.ParseInt(n, 10, 64)
		info, statErr := e.Info()
		switch {
		case !ok || !packName.MatchString(pack):
			continue // not of this package
		case err != nil || statErr != nil || !info.Mode().IsRegular():
			os.Remove(filepath.Join(d.dir, e.Name())) // a file that was not complete
		default:
			all = append(all, old{segmentKey{pack, i}, info.ModTime().UnixNano()})
		}
	}
	slices.SortFunc(all, func(a, b old) int { return cmp.Compare(a.used, b.used) })
	for _, o := range all {
		d.lru.Add(o.segmentKey, struct{}{})
	}
	return nil
}

func (d *diskSegments) path(k segmentKey) string { return filepath.Join(d.dir, k.name()) }

func (d *diskSegments) has(k segmentKey) bool { return d.lru.Contains(k) }

func (d *diskSegments) get(k segmentKey) ([]byte, bool) {
	if _, ok := d.lru.Get(k); !ok {
		return nil, false
	}
	data, err := file.Read(d.path(k), file.NoFollow, segment)
	if err != nil {
		d.lru.Remove(k)
	}
	return data, err == nil
}

// put writes the file of a segment. On a full disk it keeps nothing.
func (d *diskSegments) put(k segmentKey, data []byte) {
	path := d.path(k)
	if err := os.WriteFile(path+".tmp", data, 0o644); err != nil {
		os.Remove(path + ".tmp")
		return
	}
	if os.Rename(path+".tmp", path) == nil {
		d.lru.Add(k, struct{}{})
	}
}

func (d *diskSegments) drop(k segmentKey) { d.lru.Remove(k) }

func (d *diskSegments) close() error { return d.lock.Close() }
