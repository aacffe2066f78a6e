package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
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
)

// The folders of a mirror. The hidden one contains the ledger, the lock, and files that are
// being written.
const (
	dirBlocks   = "ipfs/"
	dirRecords  = "ipns/"
	dirMetadata = "metadata/"
	dirPrivate  = ".phase-export/"
	dirStage    = dirPrivate + "new/"
)

// batchFiles is how many files are synced together before they get their names.
const batchFiles = 2048

// A file of a mirror is small data in memory, or a block.
type file struct {
	path  string // relative to the mirror, with slashes
	data  []byte // nil: it is a block
	block cid.Cid
}

// A mirror is a folder that one export at a time may write.
type mirror struct {
	dir    string
	root   *os.File // the folder, to sync its file system
	lock   *os.File
	ledger ledger
}

var mirrorDirs = []string{"", dirPrivate, dirBlocks, dirRecords, dirMetadata}

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
	if _, exported := m.ledger[f.path]; !exported {
		return false, fmt.Errorf("%s: exists with other content, and no export of this repository wrote it (%w); remove it, or name another folder", m.at(f.path), fs.ErrInvalid)
	}
	return false, nil
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
			total.Add(int64(n))
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
		if err := os.Rename(m.staged(f), m.at(f.path)); err != nil {
			return 0, fmt.Errorf("mirror: %w", err)
		}
	}
	return total.Load(), m.sync()
}

func (m *mirror) staged(f file) string {
	return m.at(dirStage + strings.ReplaceAll(f.path, "/", "_"))
}

// An unreadBlock is the error of a block that could not be read from the store.
type unreadBlock struct {
	path string
	err  error
}

func (u unreadBlock) Error() string { return u.path + ": " + u.err.Error() }
func (u unreadBlock) Unwrap() error { return u.err }

func (m *mirror) stage(ctx context.Context, f file, src cas.Source) (int, error) {
	data, err := f.data, error(nil)
	if data == nil {
		data, err = cas.Get(ctx, src, f.block)
	}
	if errors.Is(err, context.Canceled) {
		return 0, fmt.Errorf("mirror %s: %w", m.dir, err)
	}
	if err != nil {
		return 0, unreadBlock{f.path, err}
	}
	out, err := os.OpenFile(m.staged(f), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return 0, fmt.Errorf("mirror: %w", err)
	}
	n, err := out.Write(data)
	err = errors.Join(err, out.Chmod(0o644), out.Close())
	if openfile.IsFull(err) {
		err = fmt.Errorf("mirror %s: %w", m.dir, openfile.FullDisk(syscall.ENOSPC))
	}
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
		delete(m.ledger, path)
		removed++
	}
	if maps.EqualFunc(m.ledger, before, time.Time.Equal) {
		return waiting, removed, nil
	}
	return waiting, removed, m.ledger.write(m.ledgerPath())
}
