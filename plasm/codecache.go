package plasm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
)

const (
	maxCached     = 256 << 20 // bytes of a CodeCache
	maxCachedJob  = 10 << 20  // bytes of a module whose code is stored
	maxCode       = 64 << 20  // bytes of the code of a module
	codeFactor    = 6         // most bytes of code that are stored for each byte of a module; Go's have about 3.7
	spareDisk     = 256 << 20 // bytes that a CodeCache leaves free on its disk
	staleAfter    = time.Hour // age at which a temporary file belongs to no process
	maxCacheFiles = 1 << 16
)

// A CodeCache stores code that the compiler made, so that the next run of the module starts faster. The
// engine trusts this code: it makes it executable. Therefore only this package writes into the folder,
// with what a process sent before the first instruction of the job, and no process of a job sees the
// folder. The folder is for one user only; a file that has changed is found by its digest and removed.
//
// A file belongs to a module (CID and SHA-256), a version of the engine and of Go, and a processor. Files
// of other versions are removed. The least recently used files are removed above 256 MiB. A CodeCache may
// be used by many processes at once.
type CodeCache struct {
	dir     string
	most    int64 // bytes of all files
	log     *slog.Logger
	refused sync.Once // logs once that the folder is not used
}

// NewCodeCache returns the cache in a folder, which is made when the first code is stored. A nil
// *CodeCache stores nothing.
func NewCodeCache(dir string, log *slog.Logger) *CodeCache {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &CodeCache{dir: dir, most: maxCached, log: log}
	c.clean()
	return c
}

// codeVersion names what else the code depends on: the engine, Go, and the features of the processor.
var codeVersion = sync.OnceValue(func() string {
	features := sha256.Sum256(fmt.Append(nil, cpu.X86, cpu.ARM64))
	return fmt.Sprintf("%s %s %s %x", EngineVersion(), runtime.Version(), runtime.GOARCH, features[:8])
})

// codeSuffix is the end of the names of files of this version.
func codeSuffix(version string) string {
	digest := sha256.Sum256([]byte(version))
	return fmt.Sprintf("-%x", digest[:8])
}

func (c *CodeCache) path(job Job) string {
	return filepath.Join(c.dir, job.CID.String()+codeSuffix(codeVersion()))
}

// codeHeader is the beginning of the file of a module. The code follows as a process sent it, and then the
// SHA-256 of all that.
func codeHeader(job Job) []byte {
	return fmt.Appendf(nil, "plasm code v1\n%s\n%s\n", codeVersion(), job.SHA256)
}

// A cachedCode is the code of a module, open for reading. nil is no code.
type cachedCode struct {
	io.Reader
	f    *os.File
	size int64
}

func (c *cachedCode) close() {
	if c != nil {
		c.f.Close()
	}
}

// find returns the stored code of a job, nil without any. A damaged file is removed.
func (c *CodeCache) find(job Job) *cachedCode {
	if c == nil || !job.CID.Defined() {
		return nil
	}
	if err := c.own(); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.refuse(err)
		}
		return nil
	}
	path := c.path(job)
	f, err := file.Open(path, unix.O_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		c.log.Warn("cache of compiled code: not read", "cause", err)
		return nil
	}
	code, err := checkCode(f, codeHeader(job))
	if err != nil {
		f.Close()
		c.log.Warn("cache of compiled code: file removed; the module is compiled again", "file", path, "cause", err)
		_ = os.Remove(path) // store replaces it otherwise
		return nil
	}
	now := time.Now()
	_ = os.Chtimes(path, now, now) // an unknown time of use only changes what is removed first
	return code
}

// checkCode compares the header and the digest of a file.
func checkCode(f *os.File, header []byte) (*cachedCode, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode()&0o022 != 0 || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
		return nil, fmt.Errorf("%s: another user may write to it", info.Mode())
	}
	size := info.Size() - int64(len(header)) - sha256.Size
	if size < 1 || size > maxCode {
		return nil, fmt.Errorf("%d bytes", info.Size())
	}
	begin, want := make([]byte, len(header)), make([]byte, sha256.Size)
	if _, err := f.ReadAt(begin, 0); err != nil {
		return nil, err
	}
	if !bytes.Equal(begin, header) {
		return nil, errors.New("it belongs to another module or version")
	}
	digest, body := sha256.New(), int64(len(header))
	if _, err := io.Copy(digest, io.NewSectionReader(f, 0, body+size)); err != nil {
		return nil, err
	}
	if _, err := f.ReadAt(want, body+size); err != nil {
		return nil, err
	}
	if !bytes.Equal(digest.Sum(nil), want) {
		return nil, errors.New("its digest is wrong")
	}
	return &cachedCode{io.NewSectionReader(f, body, size), f, size}, nil
}

// codeRoom is how much code of a module may be stored, in bytes.
func codeRoom(module int64) int64 { return min(maxCode, codeFactor*module+1<<20) }

// takes reports whether the code of a job may be stored: its module is not too large, and the disk has
// room.
func (c *CodeCache) takes(job Job) bool {
	if c == nil || !job.CID.Defined() || len(job.Module) > maxCachedJob {
		return false
	}
	err := os.MkdirAll(c.dir, 0o700)
	if err == nil {
		err = c.own()
	}
	if err == nil {
		var disk unix.Statfs_t
		if err = unix.Statfs(c.dir, &disk); err == nil && disk.Bavail*uint64(disk.Bsize) < spareDisk+maxCode {
			err = fmt.Errorf("less than %d MiB are free", (spareDisk+maxCode)>>20)
		}
	}
	if err != nil {
		c.refuse(err)
	}
	return err == nil
}

// own returns an error if another user may write into the folder.
func (c *CodeCache) own() error {
	info, err := os.Lstat(c.dir)
	if err != nil {
		return err
	}
	if !info.IsDir() || info.Mode()&0o022 != 0 || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("%s: not a folder that only this user may write to; remove it", info.Mode())
	}
	return nil
}

// refuse logs once why the cache is not used.
func (c *CodeCache) refuse(cause error) {
	c.refused.Do(func() { c.log.Warn("cache of compiled code: not used", "folder", c.dir, "cause", cause) })
}

// store stores the code of a job, which fill writes. After an error nothing is stored.
func (c *CodeCache) store(job Job, fill func(io.Writer) error) error {
	err := atomicfile.WriteFrom(c.path(job), 0o600, func(w io.Writer) error {
		digest := sha256.New()
		both := io.MultiWriter(w, digest)
		if _, err := both.Write(codeHeader(job)); err != nil {
			return err
		}
		if err := fill(both); err != nil {
			return err
		}
		_, err := w.Write(digest.Sum(nil))
		return err
	})
	c.clean()
	return err
}

// clean removes files of other versions, files that a killed process left, and the least recently used
// ones above the limit. It removes no file with a name that a cache does not give, and nothing in a folder
// of others: the folder may have been there before. What cannot be removed stays until the next time.
func (c *CodeCache) clean() {
	if c.own() != nil {
		return
	}
	entries, err := file.ReadDir(c.dir, maxCacheFiles)
	if err != nil {
		return
	}
	type used struct {
		name string
		size int64
		at   time.Time
	}
	var files []used
	total := int64(0)
	for _, e := range entries {
		info, err := e.Info()
		temporary, cached := isCached(e.Name())
		switch {
		case err != nil || !cached || !info.Mode().IsRegular():
		case temporary && time.Since(info.ModTime()) < staleAfter: // another process writes it
		case temporary, !strings.HasSuffix(e.Name(), codeSuffix(codeVersion())):
			_ = os.Remove(filepath.Join(c.dir, e.Name()))
		default:
			files = append(files, used{e.Name(), info.Size(), info.ModTime()})
			total += info.Size()
		}
	}
	slices.SortFunc(files, func(a, b used) int { return a.at.Compare(b.at) })
	for _, f := range files {
		if total <= c.most {
			return
		}
		_ = os.Remove(filepath.Join(c.dir, f.name))
		total -= f.size
	}
}

// isCached reports whether a CodeCache of any version gives this name to a file, or to one that it is
// writing.
func isCached(name string) (temporary, cached bool) {
	if rest, ok := strings.CutPrefix(name, "."); ok {
		temporary, name = true, rest[:max(0, strings.LastIndexByte(rest, '.'))]
	}
	text, version, _ := strings.Cut(name, "-")
	_, err := cid.Decode(text)
	digits, notHex := hex.DecodeString(version)
	return temporary, err == nil && notHex == nil && len(digits) == 8
}
