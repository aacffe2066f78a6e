package pack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
)

// Limits of a folder of packs. An attacker may have written it, on a cache partition.
const (
	maxOpen   = 128     // open files of sealed packs and their indexes
	maxPacks  = 1 << 15 // packs in a folder
	maxNames  = 4 * maxPacks
	maxListed = 1 << 20 // blocks in a pack, and in the tables of a reader together
)

// openFile opens a regular file of the folder. The error for any other kind of file, and for a
// symbolic link, wraps cas.ErrCorrupt.
func openFile(path string, flag int) (*os.File, error) {
	f, err := file.OpenFile(path, flag|file.NoFollow, 0o644)
	return f, corruptIfKind(err)
}

// corruptIfKind wraps cas.ErrCorrupt around an error that says that a file is of another kind.
func corruptIfKind(err error) error {
	if errors.Is(err, file.ErrKind) || errors.Is(err, file.ErrTooLarge) {
		return fmt.Errorf("%w (%w); remove it", err, cas.ErrCorrupt)
	}
	return err
}

// readFolder lists the folder of a store.
func readFolder(dir string) ([]fs.DirEntry, error) {
	entries, err := file.ReadDir(dir, maxNames)
	if err != nil {
		return nil, fmt.Errorf("store: %w", corruptIfKind(err))
	}
	return entries, nil
}

// A filePool has the packFiles that may be closed. When too many are open, it closes the least
// recently used.
type filePool = lru.Cache[*packFile, struct{}]

func newFilePool() *filePool {
	pool, _ := lru.NewWithEvict(maxOpen, func(p *packFile, _ struct{}) { p.evict() }) // an error only for a size below 1
	return pool
}

// A packFile is the file of a pack or of an index. While it is in a filePool, its descriptor
// may be closed; the next read opens it again.
type packFile struct {
	path string
	info os.FileInfo // of the file that was opened first
	pool *filePool   // nil: it stays open

	mu     sync.RWMutex
	f      *os.File // nil: closed until the next read
	closed bool     // for good
}

func newPackFile(f *os.File) (*packFile, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &packFile{path: f.Name(), info: info, f: f}, nil
}

// openPackFile opens a file that stays open until it joins a pool.
func openPackFile(path string, flag int) (*packFile, error) {
	f, err := openFile(path, flag)
	if err != nil {
		return nil, err
	}
	return newPackFile(f)
}

// ReadAt reads from the file.
func (p *packFile) ReadAt(b []byte, at int64) (n int, err error) {
	err = p.use(func(f *os.File) error {
		n, err = f.ReadAt(b, at)
		return err
	})
	return n, err
}

// readParts reads into parts, one after another, from an offset of the file, in one system
// call.
func (p *packFile) readParts(at int64, parts ...[]byte) error {
	want := 0
	for _, b := range parts {
		want += len(b)
	}
	return p.use(func(f *os.File) error {
		n, err := unix.Preadv(int(f.Fd()), parts, at)
		if err == nil && n < want {
			err = io.ErrUnexpectedEOF
		}
		return err
	})
}

// Size returns the current size of the file.
func (p *packFile) Size() (size int64, err error) {
	err = p.use(func(f *os.File) error {
		info, err := f.Stat()
		if err == nil {
			size = info.Size()
		}
		return err
	})
	return size, err
}

// use calls do with the file, which it opens if necessary.
func (p *packFile) use(do func(f *os.File) error) error {
	for {
		p.mu.RLock()
		if p.f != nil {
			defer p.mu.RUnlock()
			if p.pool != nil {
				p.pool.Get(p) // it is the most recently used now
			}
			return do(p.f)
		}
		closed := p.closed
		p.mu.RUnlock()
		if closed {
			return fs.ErrClosed
		}
		if err := p.reopen(); err != nil {
			return err
		}
	}
}

// reopen opens the file again. If another file has its name now, the error wraps
// fs.ErrNotExist.
func (p *packFile) reopen() error {
	p.mu.Lock()
	if p.f == nil && !p.closed {
		f, err := openFile(p.path, os.O_RDONLY)
		if err == nil {
			var info os.FileInfo
			if info, err = f.Stat(); err == nil && !os.SameFile(info, p.info) {
				err = fmt.Errorf("%s: was replaced: %w", p.path, fs.ErrNotExist)
			}
			if err != nil {
				f.Close()
			}
		}
		if err != nil {
			p.mu.Unlock()
			return err
		}
		p.f = f
	}
	p.mu.Unlock()
	p.pool.Add(p, struct{}{}) // only a file of a pool was closed
	return nil
}

// join adds the file to a pool, which may close it from now on.
func (p *packFile) join(pool *filePool) {
	p.mu.Lock() // other goroutines may be reading
	p.pool = pool
	p.mu.Unlock()
	pool.Add(p, struct{}{})
}

// evict closes the descriptor until the next read.
func (p *packFile) evict() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.f != nil {
		p.f.Close() // it was only read
		p.f = nil
	}
}

func (p *packFile) close() error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	f := p.f
	p.f, p.closed = nil, true
	p.mu.Unlock()
	if p.pool != nil {
		p.pool.Remove(p)
	}
	if f == nil {
		return nil
	}
	return f.Close()
}

// contextReader reads from r, and fails when ctx has ended.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (u contextReader) Read(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.r.Read(b)
}
