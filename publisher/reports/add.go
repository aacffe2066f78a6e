package reports

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/phaseboot/phaseboot/internal/bootreport"
	"github.com/phaseboot/phaseboot/internal/limit"
	"github.com/phaseboot/phaseboot/manifest"
)

// An Outcome says what became of a document that was offered.
type Outcome string

// The outcomes.
const (
	Accepted   Outcome = "accepted"   // kept: the key is accepted
	Unverified Outcome = "unverified" // kept: the key is unverified
	Stale      Outcome = "stale"      // this or a later document of the same boot is kept already
	Malformed  Outcome = "malformed"  // not a document
	Untrusted  Outcome = "untrusted"  // its signature is not valid
	Rate       Outcome = "rate"       // a rate or the number of bodies at once forbids it
	Full       Outcome = "full"       // the room of the unverified keys is full
	Fault      Outcome = "fault"      // the database has an error, or no room on its disk
)

// Outcomes are all outcomes.
func Outcomes() []Outcome {
	return []Outcome{Accepted, Unverified, Stale, Malformed, Untrusted, Rate, Full, Fault}
}

// Errors of Add for a document that may be offered again later.
var (
	ErrRate     = errors.New("too many boot reports")
	errRoomFull = fmt.Errorf("%w: the room for boot reports of unverified machines is full", ErrFull)
	errClosed   = errors.New("boot reports: the publisher stops")
)

// An offer is a document that waits for the transaction that keeps it. The writer alone sets outcome and err, before it
// closes done.
type offer struct {
	document bootreport.Document
	summary  bootreport.Summary
	traffic  bootreport.Traffic
	data     []byte
	address  string // IP and port
	origin   string // as limit.ClientKey names it
	outcome  Outcome
	err      error
	done     chan struct{}
}

// Add keeps a document that came from a remote address (IP and port). It returns when the document is durable. The
// error wraps manifest.ErrMalformed or manifest.ErrSignature for a bad document, ErrRate or ErrFull for one that may be
// offered again later. A document that was queued before ctx ended is kept all the same.
func (s *Store) Add(ctx context.Context, data []byte, remote string) error {
	o := &offer{data: data, address: remote, origin: limit.ClientKey(remote), done: make(chan struct{})}
	if outcome, err := s.prepare(ctx, o); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.Counted(outcome)
		return err
	}
	select {
	case s.queue <- o:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closed:
		return errClosed
	}
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closed: // the writer may have answered first
	}
	select {
	case <-o.done:
		return o.err
	default:
		return errClosed
	}
}

// prepare reads a document and decides whether it may be queued.
func (s *Store) prepare(ctx context.Context, o *offer) (_ Outcome, err error) {
	if o.document, err = bootreport.Open(o.data); errors.Is(err, manifest.ErrSignature) {
		return Untrusted, err
	} else if err != nil {
		return Malformed, err
	}
	o.summary, o.traffic = o.document.Summary(), o.document.Detail().Traffic(s.Publisher)
	known, err := s.isAccepted(ctx, o.document.Machine)
	if err != nil {
		if err = s.fault(err); ctx.Err() == nil {
			s.NotKept(err)
		}
		return Fault, err
	}
	if !known && !s.rates.allowUnverified() {
		return Rate, ErrRate
	}
	return "", nil
}

func (s *Store) isAccepted(ctx context.Context, key string) (accepted bool, err error) {
	err = s.db.QueryRowContext(ctx, "SELECT accepted FROM machine WHERE key = ?", key).Scan(&accepted)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return accepted, err
}

// write keeps the documents of the queue, as many as wait in one transaction, until ctx ends.
func (s *Store) write(ctx context.Context) {
	for {
		var batch []*offer
		select {
		case o := <-s.queue:
			batch = append(batch, o)
		case <-ctx.Done():
			s.refuseQueue()
			return
		}
		for more := true; more && len(batch) < maxBatch; {
			select {
			case o := <-s.queue:
				batch = append(batch, o)
			default:
				more = false
			}
		}
		s.finish(batch, s.fault(s.keep(ctx, batch)))
	}
}

// finish answers and counts the documents of a batch. err is that of its transaction.
func (s *Store) finish(batch []*offer, err error) {
	if err != nil {
		s.NotKept(err)
	}
	for _, o := range batch {
		if err != nil {
			o.err, o.outcome = err, Fault
		}
		s.Counted(o.outcome)
		close(o.done)
	}
	if err == nil {
		s.notify()
	}
}

// refuseQueue answers the documents that wait when the store is closed.
func (s *Store) refuseQueue() {
	defer close(s.closed)
	for {
		select {
		case o := <-s.queue:
			o.err = errClosed
			close(o.done)
		default:
			return
		}
	}
}

// A tally is what a transaction has changed, for the counters of Options.
type tally struct {
	booted    []booted
	displaced [2]int64 // boots, of unverified and of accepted keys
}

type booted struct {
	accepted bool
	result   string
}

// keep keeps a batch in one transaction. Its error is that of the database, for all of them.
func (s *Store) keep(ctx context.Context, batch []*offer) error {
	ctx = context.WithoutCancel(ctx)
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	var t tally
	for _, o := range batch {
		if err := s.keepOne(ctx, tx, o, &t); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	for _, b := range t.booted {
		s.Booted(b.accepted, b.result)
	}
	for i, boots := range t.displaced {
		if boots > 0 {
			s.Displaced(i == 1, boots)
		}
	}
	return nil
}

// keepOne keeps one document, and drops what it displaces. What concerns this document alone is its own error.
func (s *Store) keepOne(ctx context.Context, tx *sql.Tx, o *offer, t *tally) error {
	var id int64
	var accepted bool
	err := tx.QueryRowContext(ctx, "SELECT id, accepted FROM machine WHERE key = ?", o.document.Machine).Scan(&id, &accepted)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		if fits, err := s.makeRoomFor(ctx, tx, o.origin, t); err != nil {
			return err
		} else if !fits {
			o.err, o.outcome = errRoomFull, Full
			return nil
		}
	case err != nil:
		return err
	}
	now := s.Now().UnixMilli()
	d := o.document
	var newest int64
	var same bool // sent_at has whole seconds, so two documents of a boot may have the same
	var before string
	err = tx.QueryRowContext(ctx, "SELECT sent, document = ?, result FROM boot WHERE machine = ? AND boot_id = ?", o.data, id, d.BootID).Scan(&newest, &same, &before)
	if err == nil && (same || newest > d.SentAt.UnixMilli()) {
		o.outcome = Stale
		return nil
	}
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if id, err = keepMachine(ctx, tx, d, o, now); err != nil {
		return err
	}
	if err := keepBoot(ctx, tx, id, o, now); err != nil {
		return err
	}
	if before != o.summary.Result || before == "" {
		t.booted = append(t.booted, booted{accepted, knownResult(o.summary.Result)})
	}
	o.outcome = Unverified
	room := s.Limits.Unverified
	if accepted {
		o.outcome, room = Accepted, s.Limits.Accepted
	}
	return dropBoots(ctx, tx, id, accepted, room, t)
}

// Results of boots. ResultOther stands for what a later version may report.
const (
	ResultOK     = "ok"
	ResultFailed = "failed"
	ResultOther  = "other"
)

func knownResult(s string) string {
	if s == ResultOK || s == ResultFailed {
		return s
	}
	return ResultOther
}

// keepMachine writes that a machine was seen, and what its newest document says of it. A document that was sent before
// one that is kept, such as a copy or one that waited on the machine, changes nothing else.
func keepMachine(ctx context.Context, tx *sql.Tx, d bootreport.Document, o *offer, now int64) (id int64, err error) {
	sum, t := o.summary, o.traffic
	groups, err := json.Marshal(printableAll(d.Groups))
	if err != nil {
		return 0, err
	}
	err = tx.QueryRowContext(ctx, "UPDATE machine SET last_seen = ?1 WHERE key = ?2 AND EXISTS (SELECT 1 FROM boot b WHERE b.machine = machine.id AND min(b.sent, b.received) > ?3) RETURNING id",
		now, d.Machine, min(d.SentAt.UnixMilli(), now)).Scan(&id)
	if !errors.Is(err, sql.ErrNoRows) {
		return id, err
	}
	err = tx.QueryRowContext(ctx, `
		INSERT INTO machine (key, origin, first_seen, last_seen, ephemeral, machine_id, hostname, arch, groups, recipient,
			result, mode, channel, release, duration, starts, faults, disk, servers, neighbours)
		VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)
		ON CONFLICT (key) DO UPDATE SET last_seen = ?3, ephemeral = ?4, machine_id = ?5, hostname = ?6, arch = ?7, groups = ?8, recipient = ?9,
			result = ?10, mode = ?11, channel = ?12, release = ?13, duration = ?14, starts = ?15, faults = ?16, disk = ?17, servers = ?18, neighbours = ?19
		RETURNING id`,
		d.Machine, o.origin, now, d.Ephemeral, d.MachineID, printable(d.Hostname), printable(d.Arch), string(groups), printable(d.Recipient),
		sum.Result, sum.Mode, sum.Channel, sum.Release, sum.Duration.Milliseconds(), sum.Starts, t.Faults, t.Disk, t.Servers, t.Neighbours).Scan(&id)
	return id, err
}

// keepBoot writes a document, in place of an earlier one of the same boot.
func keepBoot(ctx context.Context, tx *sql.Tx, machine int64, o *offer, now int64) error {
	d, sum, t := o.document, o.summary, o.traffic
	if _, err := tx.ExecContext(ctx, "DELETE FROM boot WHERE machine = ? AND boot_id = ?", machine, d.BootID); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `
		INSERT INTO boot (machine, boot_id, received, sent, started, address, result, error, step, mode, channel, release, number, duration, starts, avoided,
			sources, faults, disk, servers, neighbours, document)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		machine, d.BootID, now, d.SentAt.UnixMilli(), milli(sum.Started), printable(o.address), sum.Result, sum.Error, sum.Step, sum.Mode, sum.Channel, sum.Release, sum.Number,
		sum.Duration.Milliseconds(), sum.Starts, sum.Failed, t.Sources, t.Faults, t.Disk, t.Servers, t.Neighbours, o.data)
	return err
}

// milli returns a time in milliseconds since 1970, 0 for the zero time and for one before.
func milli(t time.Time) int64 { return max(t.UnixMilli(), 0) }

// makeRoomFor makes room for a new key from an address in the room of the unverified ones. If that is full, the
// address with most keys loses the one that was silent for longest: another address, or this one. While every address
// has one key, only a key that was silent for Limits.Fresh makes room. It reports false if none does.
func (s *Store) makeRoomFor(ctx context.Context, tx *sql.Tx, origin string, t *tally) (bool, error) {
	var machines, own int
	err := tx.QueryRowContext(ctx, "SELECT machines, (SELECT count(*) FROM machine WHERE accepted = 0 AND origin = ?) FROM room WHERE accepted = 0", origin).Scan(&machines, &own)
	if err != nil || machines < s.Limits.Unverified.Machines {
		return err == nil, err
	}
	loser, most, err := largestOrigin(ctx, tx)
	if err != nil {
		return false, err
	}
	silentSince := s.Now().UnixMilli() + 1
	switch {
	case own+1 < most:
	case own > 0: // with one more it would be the largest itself
		loser = origin
	default:
		loser, silentSince = "", s.Now().Add(-s.Limits.Fresh).UnixMilli()
	}
	return dropMachine(ctx, tx, t, `
		SELECT id, boots FROM machine WHERE accepted = 0 AND last_seen < ?1 AND (?2 = '' OR origin = ?2) ORDER BY last_seen, id LIMIT 1`, silentSince, loser)
}

// dropMachine removes the unverified key that a query finds. It reports false if there is none.
func dropMachine(ctx context.Context, tx *sql.Tx, t *tally, query string, args ...any) (bool, error) {
	var id, boots int64
	err := tx.QueryRowContext(ctx, query, args...).Scan(&id, &boots)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err == nil {
		_, err = tx.ExecContext(ctx, "DELETE FROM machine WHERE id = ?", id)
	}
	t.displaced[0] += boots
	return err == nil, err
}

// largestOrigin returns the address with the most unverified keys.
func largestOrigin(ctx context.Context, tx *sql.Tx) (origin string, n int, err error) {
	err = tx.QueryRowContext(ctx, "SELECT origin, count(*) FROM machine WHERE accepted = 0 GROUP BY origin ORDER BY 2 DESC, 1 LIMIT 1").Scan(&origin, &n)
	return origin, n, err
}

// dropBoots drops the oldest boots of a key above its number, and then boots of the room until it has its size: the
// oldest that is not the last one of its key, or else the key that was silent for longest. In the room of the
// unverified keys the address with most bytes loses first.
func dropBoots(ctx context.Context, tx *sql.Tx, machine int64, accepted bool, room Room, t *tally) error {
	_, err := tx.ExecContext(ctx, "DELETE FROM boot WHERE id IN (SELECT id FROM boot WHERE machine = ? ORDER BY "+newestFirst+" LIMIT -1 OFFSET ?)", machine, room.PerMachine)
	if err != nil {
		return err
	}
	for {
		var bytes int64
		if err := tx.QueryRowContext(ctx, "SELECT bytes FROM room WHERE accepted = ?", accepted).Scan(&bytes); err != nil || bytes <= room.Bytes {
			return err
		}
		if err := dropOne(ctx, tx, accepted, t); err != nil {
			return err
		}
	}
}

func dropOne(ctx context.Context, tx *sql.Tx, accepted bool, t *tally) error {
	if accepted {
		t.displaced[1]++
		return dropOneAccepted(ctx, tx)
	}
	_, err := dropMachine(ctx, tx, t, `
		SELECT id, boots FROM machine WHERE accepted = 0 AND origin = (
			SELECT origin FROM machine WHERE accepted = 0 GROUP BY origin ORDER BY sum(bytes) DESC, 1 LIMIT 1)
		ORDER BY last_seen, id LIMIT 1`)
	return err
}

func dropOneAccepted(ctx context.Context, tx *sql.Tx) error {
	result, err := tx.ExecContext(ctx, `
		DELETE FROM boot WHERE id = (
			SELECT b.id FROM boot b JOIN machine m ON m.id = b.machine WHERE m.accepted = 1 AND m.boots > 1
			ORDER BY b.received, b.id LIMIT 1)`)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n > 0 {
		return err
	}
	_, err = tx.ExecContext(ctx, "DELETE FROM boot WHERE id = (SELECT b.id FROM boot b JOIN machine m ON m.id = b.machine WHERE m.accepted = 1 ORDER BY b.received, b.id LIMIT 1)")
	return err
}
