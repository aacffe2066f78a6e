package publisher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	openfile "github.com/phaseboot/phaseboot/internal/file"
)

// The folders of a mirror. The hidden one is ours: the ledger, a lock, and files that are
// being written.
const (
	dirBlocks   = "ipfs/"
	dirRecords  = "ipns/"
	dirMetadata = "metadata/"
	dirOurs     = ".phase-export/"
	dirStage    = dirOurs + "new/"
)

// batchFiles is how many files are synced at once before they get their names.
const batchFiles = 2048

// A file of a mirror: small data in memory, or a block.
type file struct {
	path  string // slashes, below the mirror
	data  []byte // nil: it is a block
	block cid.Cid
}

// bytes returns what the file holds, verified.
func (f file) bytes(ctx context.Context, src cas.Source) ([]byte, error) {
	if f.data != nil {
		return f.data, nil
	}
	return cas.Get(ctx, src, f.block)
}

// A mirror is a folder that one export at a time writes.
type mirror struct {
	dir    string
	root   *os.File // the folder, to sync its file system
	lock   *os.File
	ledger ledger
}

var mirrorDirs = []string{"", dirOurs, dirBlocks, dirRecords, dirMetadata}

// fits refuses files where a mirror has folders.
func (m *mirror) fits() error {
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
	if m.lock, err = openfile.OpenFile(m.at(dirOurs+"lock"), os.O_RDWR|os.O_CREATE|openfile.NoFollow, 0o644); err != nil {
		return fmt.Errorf("mirror: %w", err)
	}
	if err := unix.Flock(int(m.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
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

// tidy removes what a run that was killed had not finished.
func (m *mirror) tidy() error {
	left, err := filepath.Glob(m.at(dirOurs + ".ledger.*"))
	for _, path := range append(left, m.at(dirStage)) {
		err = errors.Join(err, os.RemoveAll(path))
	}
	if err != nil {
		return fmt.Errorf("mirror: %w", err)
	}
	return makeDir(m.at(dirStage))
}

// makeDir makes a folder that a web server may read, whatever the umask.
func makeDir(path string) error {
	err := os.Mkdir(path, 0o755)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeDir(filepath.Dir(filepath.Clean(path))); err != nil {
			return err
		}
		err = os.Mkdir(path, 0o755)
	}
	if err == nil {
		return os.Chmod(path, 0o755)
	}
	if info, statErr := os.Stat(path); errors.Is(err, fs.ErrExist) && statErr == nil && info.IsDir() {
		return nil
	} else if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTDIR) {
		return notFolder(path)
	}
	return fmt.Errorf("mirror: %w", err)
}

func (m *mirror) at(path string) string { return filepath.Join(m.dir, filepath.FromSlash(path)) }

func (m *mirror) ledgerPath() string { return m.at(dirOurs + "ledger") }

// close lets another export in.
func (m *mirror) close() {
	for _, f := range []*os.File{m.root, m.lock} {
		if f != nil {
			f.Close()
		}
	}
}

// list returns the paths of the files in one of the folders.
func (m *mirror) list(dir string) (map[string]bool, error) {
	d, err := os.Open(m.at(dir))
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	out := make(map[string]bool, len(names))
	for _, name := range names {
		out[dir+name] = true
	}
	return out, nil
}

// read returns a file of at most a block's size.
func (m *mirror) read(path string) ([]byte, error) {
	info, err := os.Lstat(m.at(path))
	if err == nil && (!info.Mode().IsRegular() || info.Size() > cas.MaxBlock) {
		err = fmt.Errorf("%s: not a file of a mirror (%w); remove it, or name another folder", m.at(path), fs.ErrInvalid)
	}
	if err != nil {
		return nil, err
	}
	return os.ReadFile(m.at(path))
}

// same reports whether a file is there and right. One that is not, and that we did not
// write, is refused.
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
	if _, ours := m.ledger[f.path]; !ours {
		return false, fmt.Errorf("%s: there already, different, and not written by an export of this repository (%w); remove it, or name another folder", m.at(f.path), fs.ErrInvalid)
	}
	return false, nil
}

// claim writes into the ledger what is about to be written into the mirror: whatever a
// killed run leaves, the next one knows it as ours.
func (m *mirror) claim(paths map[string]bool) error {
	if len(paths) == 0 {
		return nil
	}
	for path := range paths {
		m.ledger[path] = time.Time{}
	}
	return m.ledger.write(m.ledgerPath())
}

// install writes files beside the mirror, waits until they are on the disk and gives
// them their names. It returns their bytes.
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

// A lostBlock is a block that the store could not give.
type lostBlock struct {
	path string
	err  error
}

func (l lostBlock) Error() string { return l.path + ": " + l.err.Error() }
func (l lostBlock) Unwrap() error { return l.err }

func (m *mirror) stage(ctx context.Context, f file, src cas.Source) (int, error) {
	data, err := f.bytes(ctx, src)
	if errors.Is(err, context.Canceled) {
		return 0, fmt.Errorf("mirror %s: %w", m.dir, err)
	}
	if err != nil {
		return 0, lostBlock{f.path, err}
	}
	out, err := os.OpenFile(m.staged(f), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return 0, fmt.Errorf("mirror: %w", err)
	}
	n, err := out.Write(data)
	err = errors.Join(err, out.Chmod(0o644), out.Close())
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = fmt.Errorf("mirror %s: %w; free some space and run it again", m.dir, syscall.ENOSPC)
	}
	return n, err
}

// sync waits until the disk has everything: one call for a batch, where an fsync for
// each file would wait once for each.
func (m *mirror) sync() error {
	if err := unix.Syncfs(int(m.root.Fd())); err != nil {
		return fmt.Errorf("mirror %s: sync: %w", m.dir, err)
	}
	return nil
}

// prune notes since when files of ours are not needed, removes those whose grace is
// over, and returns how many wait and how many are gone.
func (m *mirror) prune(needed []file, now time.Time, grace time.Duration) (waiting, removed int, err error) {
	before := m.ledger.clone()
	keep := make(map[string]bool, len(needed))
	for _, f := range needed {
		keep[f.path] = true
	}
	for path, since := range m.ledger {
		switch {
		case keep[path]:
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
	if m.ledger.equal(before) {
		return waiting, removed, nil
	}
	return waiting, removed, m.ledger.write(m.ledgerPath())
}
