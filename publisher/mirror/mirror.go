package mirror

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/cas"
	openfile "github.com/phaseboot/phaseboot/internal/file" // file is a type here
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/publisher/store"
)

// The folders of a mirror. The hidden one contains the ledger, the lock, and files that are
// being written.
const (
	dirBlocks   = "ipfs/"
	dirRecords  = "ipns/"
	dirTUF      = "tuf/metadata/" // for other TUF clients
	dirMetadata = "metadata/"     // the same files, where earlier versions wrote them
	dirTargets  = "tuf/targets/"
	dirPrivate  = ".phase-export/"
	dirStage    = dirPrivate + "new/"
)

// batchFiles is how many files are synced together before they get their names.
const batchFiles = 2048

// A file of a mirror is small data in memory, a target, or a block.
type file struct {
	path   string // relative to the mirror, with slashes
	data   []byte // nil for a target and a block
	target *manifest.Target
	twin   string // path of a file with the content of the target, "" for none
	block  cid.Cid
}

// A mirror is a folder that one export at a time may write.
type mirror struct {
	dir    string
	root   *os.File // the folder, to sync its file system
	lock   *os.File
	ledger ledger
}

var mirrorDirs = []string{"", dirPrivate, dirBlocks, dirRecords, dirMetadata, dirTUF, dirTargets}

// checkDirs refuses files where a mirror has folders.
func (m *mirror) checkDirs() error {
	for _, sub := range mirrorDirs {
		info, err := os.Stat(m.at(sub))
		if err == nil && !info.IsDir() || errors.Is(err, syscall.ENOTDIR) {
			return notFolder(m.at(sub))
		}
	}
	return nil
}

func notFolder(path string) error {
	return fmt.Errorf("mirror: %s is a file (%w); name a folder", path, fs.ErrInvalid)
}

// open makes the folders of a mirror, takes its lock and reads its ledger.
func (m *mirror) open() (err error) {
	for _, sub := range mirrorDirs {
		if err := makeDir(m.at(sub)); err != nil {
			return err
		}
	}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if m.root, err = os.Open(m.dir); err != nil {
		return fmt.Errorf("mirror: %w", err)
	}
	if m.lock, err = openfile.OpenFile(m.at(dirPrivate+"lock"), os.O_RDWR|os.O_CREATE|openfile.NoFollow, 0o644); err != nil {
		return fmt.Errorf("mirror: %w", err)
	}
	if err := openfile.TryLock(m.lock); errors.Is(err, openfile.ErrLocked) {
		return fmt.Errorf("mirror %s: another export is writing it; wait for it, or name another folder", m.dir)
	} else if err != nil {
		return fmt.Errorf("mirror %s: lock: %w", m.dir, err)
	}
	if err := m.tidy(); err != nil {
		return err
	}
	m.ledger, err = readLedger(m.ledgerPath())
	return err
}

// tidy removes the unfinished files of a run that was killed.
func (m *mirror) tidy() error {
	left, err := filepath.Glob(m.at(dirPrivate + ".ledger.*"))
	for _, path := range append(left, m.at(dirStage)) {
		err = errors.Join(err, os.RemoveAll(path))
	}
	if err != nil {
		return fmt.Errorf("mirror: %w", err)
	}
	return makeDir(m.at(dirStage))
}

// makeDir makes a folder, and those above it, that a web server may read whatever the umask.
func makeDir(path string) error {
	made, err := openfile.MkdirAll(path, 0o755)
	for _, dir := range made {
		err = errors.Join(err, os.Chmod(dir, 0o755))
	}
	var pe *fs.PathError
	if errors.As(err, &pe) && (errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTDIR)) {
		return notFolder(pe.Path)
	}
	if err != nil {
		return fmt.Errorf("mirror: %w", err)
	}
	return nil
}

func (m *mirror) at(path string) string { return filepath.Join(m.dir, filepath.FromSlash(path)) }

func (m *mirror) ledgerPath() string { return m.at(dirPrivate + "ledger") }

// close gives the lock back.
func (m *mirror) close() {
	for _, f := range []*os.File{m.root, m.lock} {
		if f != nil {
			f.Close()
		}
	}
}

// read returns a regular file of at most the size of a block.
func (m *mirror) read(path string) ([]byte, error) {
	data, err := openfile.Read(m.at(path), openfile.NoFollow, cas.MaxBlock)
	if errors.Is(err, openfile.ErrKind) || errors.Is(err, openfile.ErrTooLarge) {
		err = fmt.Errorf("%s: not a file of a mirror (%w); remove it, or name another folder", m.at(path), fs.ErrInvalid)
	}
	return data, err
}

// same reports whether a file is there with the right content. It refuses a file with
// other content that no export wrote.
func (m *mirror) same(f file) (bool, error) {
	data, err := m.read(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if f.data != nil && bytes.Equal(data, f.data) || f.data == nil && cas.Check(f.block, data) == nil {
		return true, nil
	}
	return false, m.mayReplace(f)
}

// sameTarget is same for a target. It compares the content only to verify.
func (m *mirror) sameTarget(ctx context.Context, f file, verify bool) (bool, error) {
	info, err := os.Lstat(m.at(f.path))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("mirror: %w", err)
	}
	if info.Mode().IsRegular() && info.Size() == f.target.Length {
		if !verify {
			return true, nil
		}
		if sum, err := store.HashFile(ctx, m.at(f.path)); err != nil || sum == f.target.SHA256 {
			return err == nil, err
		}
	}
	return false, m.mayReplace(f)
}

// mayReplace refuses to replace a file that no export wrote.
func (m *mirror) mayReplace(f file) error {
	if _, exported := m.ledger[f.path]; !exported {
		return fmt.Errorf("%s: exists with other content, and no export of this repository wrote it (%w); remove it, or name another folder", m.at(f.path), fs.ErrInvalid)
	}
	return nil
}

// claim adds files to the ledger before they are written, so that the next run may replace
// what a killed run leaves.
func (m *mirror) claim(paths map[string]bool) error {
	if len(paths) == 0 {
		return nil
	}
	for path := range paths {
		m.ledger[path] = time.Time{}
	}
	return m.ledger.write(m.ledgerPath())
}

// install writes files into the staging folder, waits until they are on the disk and renames
// them into the mirror. It returns how many bytes it wrote.
func (m *mirror) install(ctx context.Context, files []file, src cas.Source) (int64, error) {
	var total atomic.Int64
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * runtime.GOMAXPROCS(0))
	for _, f := range files {
		group.Go(func() error {
			n, err := m.stage(gctx, f, src)
			total.Add(n)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	if err := m.sync(); err != nil {
		return 0, err
	}
	for _, f := range files {
		if f.target != nil {
			if err := makeDir(filepath.Dir(m.at(f.path))); err != nil {
				return 0, err
			}
		}
		if err := os.Rename(m.staged(f), m.at(f.path)); err != nil {
			return 0, fmt.Errorf("mirror: %w", err)
		}
	}
	return total.Load(), m.sync()
}

// staged is the path of an unfinished file. With a hash it is never too long for a file name.
func (m *mirror) staged(f file) string {
	return m.at(dirStage + fmt.Sprintf("%x", sha256.Sum256([]byte(f.path))))
}

// An unreadBlock is the error of a block that could not be read from the store.
type unreadBlock struct {
	path string
	err  error
}

func (u unreadBlock) Error() string { return u.path + ": " + u.err.Error() }
func (u unreadBlock) Unwrap() error { return u.err }

// stage writes an unfinished file and returns how many bytes it wrote.
func (m *mirror) stage(ctx context.Context, f file, src cas.Source) (int64, error) {
	if f.twin != "" && os.Link(m.at(f.twin), m.staged(f)) == nil { // else it is written again
		return 0, nil
	}
	out, err := os.OpenFile(m.staged(f), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return 0, fmt.Errorf("mirror: %w", err)
	}
	w := &diskWriter{f: out}
	err = f.copy(ctx, w, src)
	switch {
	case errors.Is(err, context.Canceled):
		err = fmt.Errorf("mirror %s: %w", m.dir, err)
	case err != nil && w.err == nil:
		err = unreadBlock{f.path, err}
	}
	err = errors.Join(err, out.Chmod(0o644), out.Close())
	if openfile.IsFull(err) {
		err = fmt.Errorf("mirror %s: %w", m.dir, openfile.FullDisk(syscall.ENOSPC))
	}
	return w.n, err
}

// copy writes the verified content of the file to w.
func (f file) copy(ctx context.Context, w io.Writer, src cas.Source) error {
	if t := f.target; t != nil {
		return store.CopyArtifact(ctx, w, src, manifest.Artifact{Role: t.Path, Length: t.Length, SHA256: t.SHA256, CID: t.CID})
	}
	data := f.data
	if data == nil {
		var err error
		if data, err = cas.Get(ctx, src, f.block); err != nil {
			return err
		}
	}
	_, err := w.Write(data)
	return err
}

// A diskWriter tells the errors of the disk from those of the store.
type diskWriter struct {
	f   *os.File
	n   int64 // bytes
	err error
}

func (w *diskWriter) Write(p []byte) (n int, err error) {
	n, err = w.f.Write(p)
	w.n, w.err = w.n+int64(n), err
	return n, err
}

// sync waits until the file system has written everything: one call for a batch takes less
// time than an fsync for each file.
func (m *mirror) sync() error {
	if err := unix.Syncfs(int(m.root.Fd())); err != nil {
		return fmt.Errorf("mirror %s: sync: %w", m.dir, err)
	}
	return nil
}

// prune notes since when exported files are not needed, removes those whose grace is over,
// and returns how many wait for that and how many were removed.
func (m *mirror) prune(needed []file, now time.Time, grace time.Duration) (waiting, removed int, err error) {
	before := maps.Clone(m.ledger)
	isNeeded := make(map[string]bool, len(needed))
	for _, f := range needed {
		isNeeded[f.path] = true
	}
	for path, since := range m.ledger {
		switch {
		case isNeeded[path]:
			m.ledger[path] = time.Time{}
			continue
		case since.IsZero():
			m.ledger[path], since = now, now
		}
		if now.Sub(since) < grace {
			waiting++
			continue
		}
		if err := os.Remove(m.at(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return waiting, removed, fmt.Errorf("mirror: %w", err)
		}
		m.removeEmpty(path)
		delete(m.ledger, path)
		removed++
	}
	if maps.EqualFunc(m.ledger, before, time.Time.Equal) {
		return waiting, removed, nil
	}
	return waiting, removed, m.ledger.write(m.ledgerPath())
}

// removeEmpty removes the folders of a target that are empty without it.
func (m *mirror) removeEmpty(target string) {
	for dir := path.Dir(target); strings.HasPrefix(dir, dirTargets); dir = path.Dir(dir) {
		if os.Remove(m.at(dir)) != nil {
			return
		}
	}
}
