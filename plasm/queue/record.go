package queue

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

// States of a job. Only Waiting, Running and Done are on the disk: a job whose daemon was killed while it
// was claimed waits again.
const (
	Waiting = "waiting"
	Claimed = "claimed"
	Running = "running"
	Done    = "done"
)

// A Job is the record of a job. The fields up to Created do not change after Accept, except those of the
// module, which Begin sets.
type Job struct {
	ID          string          `json:"id"` // 64 lower-case hex digits
	Name        string          `json:"name"`
	State       string          `json:"state"`
	Submitter   string          `json:"submitter,omitempty"` // its name; empty for a local job
	Key         string          `json:"key,omitempty"`       // key of the submitter in hex; empty for a local job
	Role        string          `json:"role,omitempty"`      // of the module in the release
	Module      string          `json:"module_cid,omitempty"`
	Digest      string          `json:"module_sha256,omitempty"`
	Length      int64           `json:"module_length,omitempty"`
	Input       string          `json:"input_sha256,omitempty"`
	InputLength int64           `json:"input_length,omitempty"`
	Spec        json.RawMessage `json:"spec,omitempty"`
	OutputLimit int64           `json:"output_limit,omitempty"` // bytes that its output is given room for
	HasModule   bool            `json:"has_module,omitempty"`   // the module came with the job
	HasInput    bool            `json:"has_input,omitempty"`
	Expires     time.Time       `json:"expires,omitzero"`  // it does not start later; zero for a local job
	Machine     json.RawMessage `json:"machine,omitempty"` // as Begin got it
	Created     time.Time       `json:"created"`
	Started     time.Time       `json:"started,omitzero"`
	Ended       time.Time       `json:"ended,omitzero"`
	Result
}

// A Result is how a job ended.
type Result struct {
	Reason   string `json:"reason,omitempty"`
	Detail   string `json:"detail,omitempty"`
	ExitCode int64  `json:"exit_code"`
}

// An entry is a job in memory, without its Spec.
type entry struct {
	seq     uint64
	job     Job
	spec    int   // bytes of Spec, of which the database has one copy
	bytes   int64 // that count for the job, without its blobs
	receipt int   // bytes
	output  *Output
	changed chan struct{} // closed and replaced when the state or the output changes
}

// Buckets of the database.
var (
	metaBucket    = []byte("meta")
	jobsBucket    = []byte("jobs")     // sequence number, 8 bytes: Job as JSON
	receiptBucket = []byte("receipts") // sequence number: receipt
	nonceBucket   = []byte("nonces")   // key of the submitter and nonce: expiry, 8 bytes
	expiryBucket  = []byte("expiries") // expiry, and then as in nonces: empty

	metaKey = []byte("meta")

	buckets = [][]byte{metaBucket, jobsBucket, receiptBucket, nonceBucket, expiryBucket}
)

const format = "phaseboot/queue/v1"

// meta describes the store.
type meta struct {
	Format  string    `json:"format"`
	Created time.Time `json:"created"`
	Pruned  time.Time `json:"pruned"`
}

// openDB opens the database, locks it, and reads all records. The library panics on pages that are damaged,
// and the kernel sends a signal for those that are missing.
func (q *Queue) openDB() (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil { // the file stays mapped, and locked, until the process ends
			err = q.damaged(v)
		}
	}()
	path := q.path(dbFile)
	q.db, err = bbolt.Open(path, fileMode, &bbolt.Options{
		Timeout:        time.Millisecond, // one try
		NoSync:         q.opts.Memory,
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			return file.OpenFile(name, flag|file.NoFollow, perm)
		},
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("state %s: another plasmd uses it; stop that one, or name another folder with --state", q.dir)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return q.damaged(err)
	case err != nil:
		return fmt.Errorf("state %s: %w", path, file.FullDisk(file.Advise(err)))
	}
	if err := q.load(); err != nil {
		return errors.Join(err, q.db.Close())
	}
	return nil
}

func (q *Queue) damaged(why any) error {
	return refusal.New(cas.ErrCorrupt, "state %s: %s is damaged (%v); move the folder away: its jobs are lost", q.dir, dbFile, why)
}

func (q *Queue) load() error {
	empty := false
	err := q.db.View(func(tx *bbolt.Tx) error {
		info, err := os.Stat(q.db.Path())
		if err == nil && info.Size() < tx.Size() {
			return q.damaged(fmt.Sprintf("%d of %d bytes", info.Size(), tx.Size()))
		}
		empty = tx.Bucket(metaBucket) == nil
		return err
	})
	if err != nil {
		return err
	}
	if empty {
		if err := q.db.Update(q.create); err != nil {
			return q.stored(err)
		}
	}
	return q.db.View(func(tx *bbolt.Tx) error {
		if err := q.loadMeta(tx); err != nil {
			return err
		}
		return errors.Join(q.loadJobs(tx), q.loadNonces(tx))
	})
}

// create makes the buckets of a new store.
func (q *Queue) create(tx *bbolt.Tx) error {
	for _, name := range buckets {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	return putJSON(tx.Bucket(metaBucket), metaKey, meta{Format: format, Created: q.now()})
}

func (q *Queue) loadMeta(tx *bbolt.Tx) error {
	for _, name := range buckets {
		if tx.Bucket(name) == nil {
			return q.damaged("it has no " + string(name))
		}
	}
	var m meta
	if err := json.Unmarshal(tx.Bucket(metaBucket).Get(metaKey), &m); err != nil {
		return q.damaged(err)
	}
	if m.Format != format {
		return fmt.Errorf("state %s: format %.60q; this plasmd reads %q; move the folder away, or run the plasmd that wrote it", q.dir, m.Format, format)
	}
	q.created, q.pruned = m.Created, m.Pruned
	return nil
}

func (q *Queue) loadJobs(tx *bbolt.Tx) error {
	receipts := tx.Bucket(receiptBucket)
	return tx.Bucket(jobsBucket).ForEach(func(key, data []byte) error {
		var j Job
		if err := json.Unmarshal(data, &j); err != nil || len(key) != 8 || !isID(j.ID) {
			return q.damaged(fmt.Sprintf("record %x", key))
		}
		e := &entry{seq: binary.BigEndian.Uint64(key), spec: len(j.Spec), receipt: len(receipts.Get(key)), changed: make(chan struct{})}
		j.Spec = nil
		e.job = j
		e.bytes = q.sizeOf(e)
		q.add(e)
		return nil
	})
}

// add adds a job to those in memory.
func (q *Queue) add(e *entry) {
	q.jobs[e.job.ID] = e
	q.order = append(q.order, e)
	q.bytes += e.bytes
	if e.job.State == Done {
		return
	}
	for _, sum := range e.job.blobs() {
		q.retain(sum.digest, sum.length)
	}
	if e.job.State == Waiting {
		q.waiting++
	}
}

// A blobRef is a module or an input that a job has until it ends.
type blobRef struct {
	digest string
	length int64
}

func (j Job) blobs() (out []blobRef) {
	if j.HasModule {
		out = append(out, blobRef{j.Digest, j.Length})
	}
	if j.HasInput {
		out = append(out, blobRef{j.Input, j.InputLength})
	}
	return out
}

// recordOverhead is what a record and a receipt need in the database in addition to the spec, which the
// receipt repeats.
const recordOverhead = 8 << 10

// sizeOf returns the bytes that count for a job: the room reserved for its output until it is done, and
// then the output that there is.
func (q *Queue) sizeOf(e *entry) int64 {
	n := int64(recordOverhead) + 2*int64(e.spec)
	if e.job.State != Done {
		return n + outputRoom(e.job.OutputLimit)
	}
	if info, err := os.Stat(q.path(outputDir, e.job.ID)); err == nil {
		n += info.Size()
	}
	return n
}

// Interrupted returns the jobs that ran when the last process ended.
func (q *Queue) Interrupted() (out []Job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range q.order {
		if e.job.State == Running {
			out = append(out, e.job)
		}
	}
	return out
}

// Get returns the record of a job, without its Spec.
func (q *Queue) Get(id string) (Job, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.jobs[id]
	if e == nil {
		return Job{}, false
	}
	return e.job, true
}

// List returns the records that keep accepts, without their Spec, the newest first.
func (q *Queue) List(keep func(Job) bool) []Job {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := []Job{}
	for _, e := range slices.Backward(q.order) {
		if keep(e.job) {
			out = append(out, e.job)
		}
	}
	return out
}

// Spec returns the Spec of a job.
func (q *Queue) Spec(id string) (spec json.RawMessage, err error) {
	e := q.entry(id)
	if e == nil {
		return nil, unknown(id)
	}
	err = q.db.View(func(tx *bbolt.Tx) error {
		j, err := readJob(tx, e.seq)
		spec = j.Spec
		return err
	})
	return spec, err
}

// Receipt returns the receipt of a job that is done, nil before that.
func (q *Queue) Receipt(id string) (receipt []byte, err error) {
	e := q.entry(id)
	if e == nil {
		return nil, unknown(id)
	}
	err = q.db.View(func(tx *bbolt.Tx) error {
		receipt = slices.Clone(tx.Bucket(receiptBucket).Get(seqKey(e.seq)))
		return nil
	})
	return receipt, err
}

// A Figures counts the jobs of a Queue.
type Figures struct {
	Waiting, Claimed, Running, Done int
	Bytes                           int64 // in use or reserved
}

// Figures counts the jobs.
func (q *Queue) Figures() (f Figures) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range q.order {
		switch e.job.State {
		case Waiting:
			f.Waiting++
		case Claimed:
			f.Claimed++
		case Running:
			f.Running++
		default:
			f.Done++
		}
	}
	f.Bytes = q.bytes
	return f
}

// MaxWaiting returns how many jobs may wait.
func (q *Queue) MaxWaiting() int { return q.opts.MaxWaiting }

func (q *Queue) entry(id string) *entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.jobs[id]
}

func (q *Queue) now() time.Time { return q.opts.Now().UTC().Round(0) }

func unknown(id string) error {
	return refusal.New(os.ErrNotExist, "job %.64q: unknown here; it may have been dropped to make room for newer ones", id)
}

// isID reports whether s is 32 bytes in lower-case hex. It is then safe as the name of a file.
func isID(s string) bool {
	notHex := func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') }
	return len(s) == 64 && !slices.ContainsFunc([]rune(s), notHex)
}

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

func readJob(tx *bbolt.Tx, seq uint64) (j Job, err error) {
	data := tx.Bucket(jobsBucket).Get(seqKey(seq))
	if data == nil {
		return j, os.ErrNotExist
	}
	return j, json.Unmarshal(data, &j)
}

func putJSON(b *bbolt.Bucket, key []byte, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put(key, data)
}
