package queue

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

// Errors of Accept and Finish. Their text is that of the error that wraps them.
var (
	ErrFull   = errors.New("no room")
	ErrReplay = errors.New("accepted before")
	ErrDone   = errors.New("finished before")
)

// Options are the limits of a Queue. A field that is 0 has its default.
type Options struct {
	Memory     bool             // nothing is written to a disk: the folder must be in memory
	MaxWaiting int              // jobs that wait for a worker; default 256
	MaxJobs    int              // jobs in all, those that are finished included; default 1024
	MaxBytes   int64            // of modules, inputs, outputs and receipts; default 512 MiB, in memory 128 MiB
	MaxAge     time.Duration    // of a finished job; default 7 days
	MaxNonces  int              // orders of one submitter that are accepted and have not expired; default 65536
	Now        func() time.Time // default time.Now
	Log        *slog.Logger     // default: none
}

func (o Options) withDefaults() Options {
	size := int64(512 << 20)
	if o.Memory {
		size = 128 << 20
	}
	o.MaxWaiting = cmp.Or(max(o.MaxWaiting, 0), 256)
	o.MaxJobs = max(cmp.Or(max(o.MaxJobs, 0), 1024), o.MaxWaiting)
	o.MaxBytes = cmp.Or(max(o.MaxBytes, 0), size)
	o.MaxAge = cmp.Or(max(o.MaxAge, 0), 7*24*time.Hour)
	o.MaxNonces = cmp.Or(max(o.MaxNonces, 0), 64<<10)
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	return o
}

// Names in the folder of a Queue.
const (
	dbFile      = "queue.db"
	reserveFile = "reserve" // space that is given up to record an outcome on a full disk
	blobDir     = "blobs"   // modules and inputs, named by their sha256
	outputDir   = "output"  // named by the ID of their job
	tempPrefix  = "new-"    // in blobDir: an upload

	reserveBytes = 1 << 20
	dirMode      = 0o700
	fileMode     = 0o600
)

// A Queue is an open store. Its methods may be called concurrently.
type Queue struct {
	opts Options
	dir  string
	db   *bbolt.DB

	write sync.Mutex // held by the one that changes the database

	mu      sync.Mutex
	jobs    map[string]*entry // by ID
	order   []*entry          // by sequence number
	blobs   map[string]*blob  // by sha256
	bytes   int64             // in use or reserved
	uploads map[string]int64  // of them, bytes of uploads of each submitter
	waiting int
	turn    uint64            // counts claims
	served  map[string]uint64 // turn of the last claim of each submitter
	changed chan struct{}     // closed and replaced when a job may be claimed
	nonces  map[string]int    // valid nonces of each submitter
	created time.Time         // of the store
	pruned  time.Time         // last expiry of a nonce that was forgotten
	closed  bool
}

// Open opens the store in a folder, and makes it if it is missing. A store that another process has open
// is an error. The caller must finish each job of Interrupted before it claims any.
func Open(dir string, o Options) (_ *Queue, err error) {
	q := &Queue{
		opts: o.withDefaults(), dir: dir, jobs: map[string]*entry{}, blobs: map[string]*blob{},
		served: map[string]uint64{}, nonces: map[string]int{}, uploads: map[string]int64{}, changed: make(chan struct{}),
	}
	if err := q.makeFolders(); err != nil {
		return nil, fmt.Errorf("state %s: %w", dir, file.FullDisk(file.Pathless(err)))
	}
	if err := q.openDB(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			q.db.Close()
		}
	}()
	if err := q.sweep(); err != nil {
		return nil, fmt.Errorf("state %s: %w", dir, file.Pathless(err))
	}
	if err := q.reserve(); err != nil {
		q.opts.Log.Warn("no space is reserved for the outcomes of jobs", "state", dir, "cause", file.FullDisk(file.Pathless(err)))
	}
	return q, nil
}

// Close closes the store. Claim returns an error from then on. The caller must have ended its workers.
func (q *Queue) Close() error {
	q.write.Lock()
	defer q.write.Unlock()
	q.mu.Lock()
	done := q.closed
	q.closed = true
	q.wake()
	q.mu.Unlock()
	if done {
		return nil
	}
	return q.db.Close()
}

func (q *Queue) makeFolders() error {
	if q.opts.Memory && !inMemory(existing(q.dir)) {
		return refusal.Invalid("on a disk, and in private mode nothing may be written to one; name a folder of a tmpfs with --state, such as /run/plasm/state")
	}
	if other := q.other(); other != "" {
		return refusal.Invalid("a folder with other files in it, such as %.80q; name an empty one with --state", other)
	}
	for _, dir := range []string{q.dir, q.path(blobDir), q.path(outputDir)} {
		switch err := os.MkdirAll(dir, dirMode); {
		case errors.Is(err, syscall.ENOTDIR):
			return refusal.Invalid("not a folder; name one with --state")
		case errors.Is(err, fs.ErrPermission):
			return refusal.New(err, "permission denied; name a folder of this user with --state, or run this as root")
		case err != nil:
			return err
		}
	}
	return nil
}

// other returns the name of a file in the folder that is none of ours, if the folder has no database yet: a folder of
// somebody else. The root of a file system may have lost+found.
func (q *Queue) other() string {
	entries, err := os.ReadDir(q.dir)
	if err != nil { // it is not there yet, or MkdirAll says why
		return ""
	}
	ours := []string{blobDir, outputDir, reserveFile, "code", "lost+found"}
	found := ""
	for _, e := range entries {
		if e.Name() == dbFile {
			return ""
		}
		if !slices.Contains(ours, e.Name()) {
			found = e.Name()
		}
	}
	return found
}

// existing returns the folder, or the first one above it that is there.
func existing(dir string) string {
	dir, err := filepath.Abs(dir)
	for err == nil && dir != "/" {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

// inMemory reports whether a folder is on a filesystem that is only in memory.
func inMemory(dir string) bool {
	var s unix.Statfs_t
	return unix.Statfs(dir, &s) == nil && (s.Type == unix.TMPFS_MAGIC || s.Type == unix.RAMFS_MAGIC)
}

func (q *Queue) path(parts ...string) string {
	return filepath.Join(append([]string{q.dir}, parts...)...)
}

// wake wakes those that wait in Claim. The caller holds q.mu.
func (q *Queue) wake() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// reserve allocates the file whose space an outcome may take, unless it is there. A filesystem that cannot
// allocate has none.
func (q *Queue) reserve() error {
	if info, err := os.Stat(q.path(reserveFile)); err == nil && info.Size() == reserveBytes {
		return nil
	}
	f, err := os.OpenFile(q.path(reserveFile), os.O_CREATE|os.O_WRONLY, fileMode)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.Fallocate(int(f.Fd()), 0, 0, reserveBytes)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
		return nil
	case err != nil:
		os.Remove(f.Name()) // part of it is of no use
	}
	return err
}

// sweep removes the files that belong to no job: what a process left that was killed.
func (q *Queue) sweep() error {
	for _, dir := range []string{blobDir, outputDir} {
		entries, err := file.ReadDir(q.path(dir), 1<<20)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if q.knows(dir, e.Name()) {
				continue
			}
			if err := os.Remove(q.path(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

func (q *Queue) knows(dir, name string) bool {
	if dir == blobDir {
		return q.blobs[name] != nil
	}
	return q.jobs[name] != nil
}
