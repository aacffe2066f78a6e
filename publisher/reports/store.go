package reports

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/internal/file"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

// A Room bounds what is kept of one kind of keys.
type Room struct {
	Machines   int   // keys
	PerMachine int   // boots of one key; the oldest are dropped
	Bytes      int64 // of all documents
}

// Limits bound a Store. A zero field has the value of DefaultLimits.
type Limits struct {
	Accepted, Unverified Room
	// Fresh is how long an unverified key cannot be displaced by one from an address with as many keys.
	Fresh time.Duration
	// PerAddress are the documents a second that are taken from an address (an IPv4 address, a /56 of IPv6),
	// and Burst how many at once. All and AllBurst are those of unverified keys from all addresses.
	PerAddress, All float64
	Burst, AllBurst int
	// Bodies is how many documents may be received at once, BodiesPerAddress how many of them from one address.
	Bodies, BodiesPerAddress int
}

// DefaultLimits are for a fleet of 100,000 machines, and for a classroom that starts behind one address.
func DefaultLimits() Limits {
	return Limits{
		Accepted:   Room{Machines: 200_000, PerMachine: 32, Bytes: 4 << 30},
		Unverified: Room{Machines: 1000, PerMachine: 4, Bytes: 64 << 20},
		Fresh:      24 * time.Hour,
		PerAddress: 20, Burst: 600, All: 200, AllBurst: 2000,
		Bodies: 64, BodiesPerAddress: 16,
	}
}

// complete sets each zero field to its default.
func (l Limits) complete() Limits {
	d := DefaultLimits()
	for _, r := range []struct{ own, usual *Room }{{&l.Accepted, &d.Accepted}, {&l.Unverified, &d.Unverified}} {
		orDefault(&r.own.Machines, r.usual.Machines)
		orDefault(&r.own.PerMachine, r.usual.PerMachine)
		orDefault(&r.own.Bytes, r.usual.Bytes)
	}
	orDefault(&l.Fresh, d.Fresh)
	orDefault(&l.PerAddress, d.PerAddress)
	orDefault(&l.All, d.All)
	orDefault(&l.Burst, d.Burst)
	orDefault(&l.AllBurst, d.AllBurst)
	orDefault(&l.Bodies, d.Bodies)
	orDefault(&l.BodiesPerAddress, d.BodiesPerAddress)
	return l
}

func orDefault[T comparable](field *T, usual T) {
	if *field == *new(T) {
		*field = usual
	}
}

// Options of a Store.
type Options struct {
	Limits   Limits
	Now      func() time.Time // nil: time.Now
	Existing bool             // a missing database is not made
	ReadOnly bool             // changes nothing; Existing is true then
	// Publisher is the peer ID of the publisher, whose bytes are not those of a neighbour; "" is fine.
	Publisher string
	// Counted is called with the outcome of each document that was offered; nil is fine. It is not called for one whose
	// client hung up before it was queued.
	Counted func(Outcome)
	// Booted is called once for each boot that is kept, and again if a later document of it has another result: ResultOK,
	// ResultFailed or ResultOther. nil is fine.
	Booted func(accepted bool, result string)
	// Displaced is called with how many boots were removed because the room of their kind was full; nil is fine.
	Displaced func(accepted bool, boots int64)
	// Damaged is called once, when a damage of the database is found after Open; nil is fine.
	Damaged func(error)
	// NotKept is called with each error of the database for which documents were not kept; nil is fine.
	NotKept func(error)

	fileSystem func(dir string) (uint32, error) // the type of the one that a folder is on; nil: as statfs says
}

// A Store is an open database. It is safe for concurrent use.
type Store struct {
	Options
	path  string
	db    *sql.DB
	rates *rates
	queue chan *offer

	stop   context.CancelFunc
	tasks  sync.WaitGroup
	closed chan struct{} // closed when the writer has ended

	damage atomic.Bool // was found

	mu      sync.Mutex
	changed chan struct{} // closed and replaced after a change by this process
}

const (
	queueLength = 256 // documents that wait for a transaction
	maxBatch    = 64  // documents of one transaction
	maxReaders  = 4   // connections
	pageSize    = 4096
	cacheKiB    = 8 << 10         // of one connection
	busyTimeout = 5 * time.Second // for another process that writes

	quickCheckLimit = 2 * time.Second // of a check when a publisher opens a database; of a large one it checks a part
)

// Open opens the database in a file, and makes it when it is missing. A file that is damaged or not a database is an error that
// wraps cas.ErrCorrupt, for which there is MoveAside; one that is missing and must exist wraps fs.ErrNotExist; one on a network
// file system wraps fs.ErrInvalid, because several processes that write to it there damage it.
func Open(ctx context.Context, path string, o Options) (*Store, error) {
	o.Limits = o.Limits.complete()
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Counted == nil {
		o.Counted = func(Outcome) {}
	}
	if o.Booted == nil {
		o.Booted = func(bool, string) {}
	}
	if o.Displaced == nil {
		o.Displaced = func(bool, int64) {}
	}
	if o.Damaged == nil {
		o.Damaged = func(error) {}
	}
	if o.NotKept == nil {
		o.NotKept = func(error) {}
	}
	if o.fileSystem == nil {
		o.fileSystem = fileSystem
	}
	if err := checkFileSystem(path, o.fileSystem); err != nil {
		return nil, err
	}
	if err := prepareFile(path, o.ReadOnly || o.Existing); err != nil {
		return nil, err
	}
	s := &Store{Options: o, path: path, rates: newRates(o.Limits), queue: make(chan *offer, queueLength), changed: make(chan struct{}), closed: make(chan struct{})}
	var err error
	if s.db, err = sql.Open("sqlite", s.dsn()); err != nil {
		return nil, s.fault(err)
	}
	s.db.SetMaxOpenConns(maxReaders + 1)
	if err = s.migrate(ctx); err == nil && !o.ReadOnly && !o.Existing {
		err = s.quickCheck(ctx)
	}
	if err != nil {
		return nil, errors.Join(s.fault(err), s.db.Close())
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	if !o.ReadOnly {
		s.tasks.Go(func() { s.write(run) })
	}
	return s, nil
}

// prepareFile makes the file of a database, which has what machines say of themselves, for its owner alone. SQLite gives
// the files beside it the same mode. existing says that it must be there.
func prepareFile(path string, existing bool) error {
	err := file.Check(path, 0)
	if errors.Is(err, fs.ErrNotExist) && !existing {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return fmt.Errorf("boot reports: %w", err)
		}
		return f.Close()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return refusal.New(err, "boot reports: %s: does not exist; a publisher that serves makes it, or name another file with --reports", path)
	}
	if err != nil {
		return fmt.Errorf("boot reports: %w", err)
	}
	return nil
}

// dsn names the database for the driver, with the settings of every connection.
func (s *Store) dsn() string {
	q := url.Values{"_txlock": {"immediate"}}
	mode := "rw"
	if s.ReadOnly {
		mode = "ro"
		q.Set("_txlock", "deferred")
	}
	q.Set("mode", mode)
	bytes := 2 * (s.Limits.Accepted.Bytes + s.Limits.Unverified.Bytes)
	for _, p := range []string{
		fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()), "foreign_keys(1)", "recursive_triggers(1)", "trusted_schema(0)",
		fmt.Sprintf("cache_size(-%d)", cacheKiB), fmt.Sprintf("max_page_count(%d)", bytes/pageSize), "synchronous(full)",
		"journal_size_limit(16777216)", "temp_store(memory)",
	} {
		q.Add("_pragma", p)
	}
	return "file:" + (&url.URL{Path: s.path}).EscapedPath() + "?" + q.Encode()
}

// migrate makes the tables of a new database, brings one of an earlier version up to date, and refuses a database of
// another program or a later version.
func (s *Store) migrate(ctx context.Context) error {
	version, tables, err := readVersion(ctx, s.db)
	if err != nil {
		return err
	}
	isNew := version == 0 && tables == 0
	if !s.ReadOnly && (isNew || version > 0 && version < schemaVersion) {
		if isNew {
			if _, err := s.db.ExecContext(ctx, "PRAGMA journal_mode = WAL"); err != nil { // it is a property of the file
				return err
			}
		}
		if version, err = s.makeTables(ctx); err != nil {
			return err
		}
	}
	switch {
	case version == schemaVersion:
		return nil
	case isNew:
		return refusal.New(fs.ErrNotExist, "boot reports: %s: no table yet; a publisher that serves makes it", s.path)
	case version > schemaVersion:
		return refusal.New(fs.ErrInvalid, "boot reports: %s: made by a later version of phase-publish; use that version, or name another file with --reports", s.path)
	case version > 0:
		return refusal.New(fs.ErrInvalid, "boot reports: %s: made by an earlier version of phase-publish; restart the publisher that serves, which brings it up to date", s.path)
	}
	return refusal.New(fs.ErrInvalid, "boot reports: %s: not a database of boot reports; name another file with --reports", s.path)
}

// makeTables makes the tables or brings them up to date, unless another process did so meanwhile. It returns the version.
func (s *Store) makeTables(ctx context.Context) (version int, err error) {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback()
	version, tables, err := readVersion(ctx, tx)
	switch {
	case err != nil:
		return 0, err
	case version == 0 && tables == 0:
		version = schemaVersion
		_, err = tx.ExecContext(ctx, fmt.Sprintf("%s PRAGMA user_version = %d", schema, schemaVersion))
	case version > 0 && version < schemaVersion:
		err, version = upgrade(ctx, tx, version), schemaVersion
	}
	if err != nil {
		return 0, err
	}
	return version, tx.Commit()
}

// readVersion returns the version of the schema, 0 if the file has none, and how many tables and indexes there are.
func readVersion(ctx context.Context, db interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
},
) (version, tables int, err error) {
	err = db.QueryRowContext(ctx, "SELECT user_version, (SELECT count(*) FROM sqlite_schema) FROM pragma_user_version").Scan(&version, &tables)
	return version, tables, err
}

// Path is the file of the database.
func (s *Store) Path() string { return s.path }

// Close waits for the transaction under way and closes the database.
func (s *Store) Close() error {
	s.stop()
	s.tasks.Wait()
	return s.fault(s.db.Close())
}

// damaged returns the error of a damaged database.
func (s *Store) damaged() error {
	err := refusal.New(cas.ErrCorrupt, "boot reports: %s: damaged, or not a database; move it away, and a new one is made", s.path)
	if s.stop != nil && !s.damage.Swap(true) { // it was open already
		s.Damaged(err)
	}
	return err
}

// HasDamage reports whether a damage of the database was found since Open.
func (s *Store) HasDamage() bool { return s.damage.Load() }

// ErrFull says that the database, or the disk that it is on, is full.
var ErrFull = errors.New("no room")

// fault returns an error of the database with its file and a remedy.
func (s *Store) fault(err error) error {
	var e *sqlite.Error
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &e):
		return err
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return s.damaged()
	case sqlite3.SQLITE_FULL:
		return refusal.New(ErrFull, "boot reports: %s: the disk is full, or the database has its greatest size; free some space", s.path)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return fmt.Errorf("boot reports: %s: another process has been writing for %v; try again", s.path, busyTimeout)
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
		return refusal.New(fs.ErrPermission, "boot reports: %s: it or its folder is not writable for this user; run this as the user of the publisher, or name another file with --reports", s.path)
	}
	return fmt.Errorf("boot reports: %s: %w", s.path, err)
}
