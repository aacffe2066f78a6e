package queue

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/atomicfile"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

// A blob is a module or an input. Jobs with the same bytes share it.
type blob struct {
	length int64
	jobs   int // that have it and are not done
}

// An Upload is a module or an input that is being received, in a file without a name of its own. The
// caller discards it, also after Accept has taken it.
type Upload struct {
	q      *Queue
	key    string // of the submitter
	f      *os.File
	limit  int64
	hash   hash.Hash
	length int64
	taken  bool // its bytes are those of a blob
}

// NewUpload returns an Upload of at most limit bytes from the submitter with a key in hex, empty for a local
// job.
func (q *Queue) NewUpload(key string, limit int64) (*Upload, error) {
	f, err := os.CreateTemp(q.path(blobDir), tempPrefix)
	if err != nil {
		return nil, fmt.Errorf("state %s: %w", q.dir, file.FullDisk(file.Pathless(err)))
	}
	return &Upload{q: q, key: key, f: f, limit: limit, hash: sha256.New()}, nil
}

// Write adds bytes. An error wraps ErrFull if the store has no room, and fs.ErrInvalid for more than limit.
func (u *Upload) Write(p []byte) (int, error) {
	if u.length+int64(len(p)) > u.limit {
		return 0, refusal.Invalid("longer than %d bytes; send less", u.limit)
	}
	if err := u.q.charge(u.key, int64(len(p))); err != nil {
		return 0, err
	}
	u.length += int64(len(p))
	u.hash.Write(p)
	n, err := u.f.Write(p)
	if err != nil {
		err = fmt.Errorf("state %s: %w", u.q.dir, file.FullDisk(file.Pathless(err)))
	}
	return n, err
}

// Digest returns the sha256 of the bytes in hex.
func (u *Upload) Digest() string { return hex.EncodeToString(u.hash.Sum(nil)) }

// Length returns the number of bytes.
func (u *Upload) Length() int64 { return u.length }

// Path returns the file with the bytes, until Accept or Discard.
func (u *Upload) Path() string { return u.f.Name() }

// Discard removes the file, unless Accept has taken it. It may be called twice.
func (u *Upload) Discard() {
	if u == nil || u.f == nil {
		return
	}
	u.f.Close()
	if !u.taken {
		os.Remove(u.f.Name())
		u.q.mu.Lock()
		u.q.uncharge(u)
		u.q.mu.Unlock()
	}
	u.f = nil
}

// uncharge ends the count of an upload. The caller holds q.mu.
func (q *Queue) uncharge(u *Upload) {
	q.bytes -= u.length
	if q.uploads[u.key] -= u.length; q.uploads[u.key] == 0 {
		delete(q.uploads, u.key)
	}
	u.length = 0
}

// charge counts bytes of an upload, and drops finished jobs if there is no room for them.
func (q *Queue) charge(key string, n int64) error {
	add := func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		fits := q.bytes+n <= q.opts.MaxBytes
		if fits {
			q.bytes += n
			q.uploads[key] += n
		}
		return fits
	}
	if add() {
		return nil
	}
	q.write.Lock()
	defer q.write.Unlock()
	if err := q.makeRoom(key, 0, n); err != nil {
		return err
	}
	if !add() { // another upload took it
		return refusal.New(ErrFull, "queue: all of the %d bytes are in use; try again when jobs have ended", q.opts.MaxBytes)
	}
	return nil
}

// place gives the file of an upload its name, and makes it durable. fresh says that no job had these bytes.
func (u *Upload) place() (fresh bool, err error) {
	sum := u.Digest()
	u.q.mu.Lock()
	shared := u.q.blobs[sum] != nil
	u.q.mu.Unlock()
	if shared {
		return false, nil
	}
	if !u.q.opts.Memory {
		if err := u.f.Sync(); err != nil {
			return false, err
		}
	}
	return true, os.Rename(u.f.Name(), u.q.path(blobDir, sum))
}

// retain counts one more job for a blob. The caller holds q.mu.
func (q *Queue) retain(digest string, length int64) {
	b := q.blobs[digest]
	if b == nil {
		b = &blob{length: length}
		q.blobs[digest] = b
		q.bytes += length
	}
	b.jobs++
}

// release counts one job less for each blob, and returns those that no job has. The caller holds q.mu.
func (q *Queue) release(refs []blobRef) (unused []string) {
	for _, r := range refs {
		b := q.blobs[r.digest]
		if b == nil {
			continue
		}
		if b.jobs--; b.jobs == 0 {
			delete(q.blobs, r.digest)
			q.bytes -= b.length
			unused = append(unused, r.digest)
		}
	}
	return unused
}

// removeBlobs removes files. The caller holds q.write, so that no upload takes the same name meanwhile.
func (q *Queue) removeBlobs(digests []string) {
	for _, d := range digests {
		if err := os.Remove(q.path(blobDir, d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			q.opts.Log.Warn("queue: file not removed", "cause", err)
		}
	}
}

func (q *Queue) syncBlobs() error {
	if q.opts.Memory {
		return nil
	}
	return atomicfile.SyncDir(q.path(blobDir))
}

// OpenModule opens the module that came with a job. The caller checks its bytes.
func (q *Queue) OpenModule(j Job) (*os.File, error) { return q.openBlob("module", j.Digest) }

// OpenInput opens the input of a job.
func (q *Queue) OpenInput(j Job) (*os.File, error) { return q.openBlob("input", j.Input) }

func (q *Queue) openBlob(what, digest string) (*os.File, error) {
	if !isID(digest) {
		return nil, fmt.Errorf("%s: %w", what, fs.ErrNotExist)
	}
	f, err := file.Open(q.path(blobDir, digest), file.NoFollow)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s %s: missing in %s: %w", what, digest, q.dir, cas.ErrCorrupt)
	}
	return f, err
}
