package reports

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/phaseboot/phaseboot/internal/bootreport"
	"github.com/phaseboot/phaseboot/internal/refusal"
)

// A Machine is what is known of a key: what its newest document says, and what an operator decided.
type Machine struct {
	Key        string     `json:"machine"`  // public Ed25519 key, 64 hex digits
	Accepted   bool       `json:"accepted"` // by an operator; else the machine may be anybody
	AcceptedAt *time.Time `json:"accepted_at,omitempty"`
	FirstSeen  time.Time  `json:"first_seen"`
	LastSeen   time.Time  `json:"last_seen"`
	Ephemeral  bool       `json:"ephemeral,omitempty"` // a key of one boot
	MachineID  string     `json:"machine_id,omitempty"`
	Hostname   string     `json:"hostname,omitempty"`
	Arch       string     `json:"arch,omitempty"`
	Groups     []string   `json:"groups,omitempty"`
	Recipient  string     `json:"age_recipient,omitempty"`
	Boots      int        `json:"boots"` // that are kept
	Last       *Boot      `json:"last_boot,omitempty"`
}

// A Boot is one boot of a machine, as its report says.
type Boot struct {
	ID       string    `json:"boot_id"`
	Received time.Time `json:"received"`
	Sent     time.Time `json:"sent_at"` // by the clock of the machine, as Started
	Started  time.Time `json:"started"`
	Address  string    `json:"address"` // IP and port that it came from
	Result   string    `json:"result"`  // ok or failed
	Error    string    `json:"error,omitempty"`
	Step     string    `json:"failed_step,omitempty"` // the step that failed
	Mode     string    `json:"mode,omitempty"`
	Channel  string    `json:"channel,omitempty"`
	Release  string    `json:"release,omitempty"`
	Number   int64     `json:"role_version,omitempty"`
	Duration int64     `json:"duration_ms"`
	Starts   int64     `json:"starts,omitempty"`  // of the release without a blessing; 0 if they are not counted
	Avoided  string    `json:"avoided,omitempty"` // version of the newest release, in whose place Release was booted

	Sources int64 `json:"sources,omitempty"` // that sent a block or made a fault
	Faults  int64 `json:"faults,omitempty"`  // of sources
	bootreport.Share
}

// An Order sorts machines.
type Order string

// The orders. Machines that are equal in one are sorted by the time at which they were seen.
const (
	BySeen     Order = "" // when it was seen last
	ByName     Order = "hostname"
	ByRelease  Order = "release" // as texts
	ByMode     Order = "mode"
	ByDuration Order = "duration"
	ByStarts   Order = "starts" // of the release without a blessing
	ByFaults   Order = "faults" // of the sources of the last boot
)

// Orders are all orders.
func Orders() []Order {
	return []Order{BySeen, ByName, ByRelease, ByMode, ByDuration, ByStarts, ByFaults}
}

// A Query says which machines List returns. The fields of a boot are those of the last one; "" is any.
type Query struct {
	Accepted, Unverified  bool // of these kinds; of both if neither is set
	Result, Release, Mode string
	Prefix                string // of the key or the host name, in any case
	Order                 Order
	Ascending             bool   // the least first; else the greatest, or latest
	Before                string // the key of the last one of the page before, "" for the first page
	Limit                 int    // at most so many; 0 is 1000
}

const machineColumns = `m.id, m.key, m.accepted, m.accepted_at, m.first_seen, m.last_seen, m.ephemeral, m.machine_id, m.hostname, m.arch, m.groups, m.recipient, m.boots`

const bootColumns = `boot_id, received, sent, started, address, result, error, step, mode, channel, release, number, duration, starts, avoided, sources, faults, disk, servers, neighbours`

// newestFirst orders the boots of a machine by the time at which they were sent: one that was kept on the machine arrives
// late. A time after the arrival is that of a wrong clock.
const newestFirst = "min(sent, received) DESC, id DESC"

// statement returns the statement of a query. Each filter and each order has an index, of which one serves.
func (s *Store) statement(ctx context.Context, q Query) (text string, args []any, err error) {
	if !slices.Contains(Orders(), q.Order) {
		return "", nil, refusal.Invalid("order %.40q: not known", q.Order)
	}
	where := []string{"1"}
	add := func(condition string, values ...any) {
		where, args = append(where, condition), append(args, values...)
	}
	if q.Accepted != q.Unverified {
		add("m.accepted = ?", q.Accepted)
	}
	for _, f := range []struct{ column, value string }{{"result", q.Result}, {"release", q.Release}, {"mode", q.Mode}} {
		if f.value != "" {
			add("m."+f.column+" = ?", f.value)
		}
	}
	if q.Prefix != "" {
		key, end := strings.ToLower(q.Prefix), string(unicode.MaxRune)
		add("(m.key >= ? AND m.key < ? OR m.hostname COLLATE NOCASE >= ? AND m.hostname COLLATE NOCASE < ?)", key, key+end, q.Prefix, q.Prefix+end)
	}
	columns, direction, than := []string{"m.last_seen", "m.id"}, " DESC", "<"
	if q.Order != BySeen {
		columns = append([]string{"m." + string(q.Order)}, columns...)
	}
	if q.Order == ByName {
		columns[0] += " COLLATE NOCASE"
	}
	if q.Ascending {
		direction, than = "", ">"
	}
	if q.Before != "" {
		last := make([]any, len(columns))
		into := make([]any, len(columns))
		for i := range last {
			into[i] = &last[i]
		}
		err := s.db.QueryRowContext(ctx, "SELECT "+strings.Join(columns, ", ")+" FROM machine m WHERE m.key = ?", q.Before).Scan(into...)
		if errors.Is(err, sql.ErrNoRows) {
			return "", nil, unknown(q.Before)
		}
		if err != nil {
			return "", nil, s.fault(err)
		}
		add("("+strings.Join(columns, ", ")+") "+than+" (?"+strings.Repeat(", ?", len(columns)-1)+")", last...)
	}
	return "SELECT " + machineColumns + " FROM machine m WHERE " + strings.Join(where, " AND ") +
		" ORDER BY " + strings.Join(columns, direction+", ") + direction + " LIMIT ?", append(args, cmp.Or(max(q.Limit, 0), 1000)), nil
}

// List returns machines. The error wraps fs.ErrNotExist if Before is unknown, fs.ErrInvalid for an unknown order.
func (s *Store) List(ctx context.Context, q Query) ([]Machine, error) {
	text, args, err := s.statement(ctx, q)
	if err != nil {
		return nil, err
	}
	rows, err := s.db.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, s.fault(err)
	}
	defer rows.Close()
	list, ids := []Machine{}, []int64{}
	for rows.Next() {
		m, id, err := scanMachine(rows)
		if err != nil {
			return nil, s.fault(err)
		}
		list, ids = append(list, m), append(ids, id)
	}
	if err := rows.Err(); err != nil {
		return nil, s.fault(err)
	}
	rows.Close() // the connection is used again
	for i, id := range ids {
		boots, err := s.boots(ctx, id, 1)
		if err != nil {
			return nil, err
		}
		if len(boots) > 0 {
			list[i].Last = &boots[0]
		}
	}
	return list, nil
}

type scanner interface{ Scan(into ...any) error }

func scanMachine(row scanner) (m Machine, id int64, err error) {
	var acceptedAt, first, last int64
	var groups string
	err = row.Scan(&id, &m.Key, &m.Accepted, &acceptedAt, &first, &last, &m.Ephemeral, &m.MachineID, &m.Hostname, &m.Arch, &groups, &m.Recipient, &m.Boots)
	if err != nil {
		return m, 0, err
	}
	m.FirstSeen, m.LastSeen = fromMilli(first), fromMilli(last)
	if at := fromMilli(acceptedAt); acceptedAt > 0 {
		m.AcceptedAt = &at
	}
	return m, id, json.Unmarshal([]byte(groups), &m.Groups)
}

func fromMilli(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// boots returns the newest boots of a machine.
func (s *Store) boots(ctx context.Context, machine int64, most int) ([]Boot, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT "+bootColumns+" FROM boot WHERE machine = ? ORDER BY "+newestFirst+" LIMIT ?", machine, most)
	if err != nil {
		return nil, s.fault(err)
	}
	defer rows.Close()
	list := []Boot{}
	for rows.Next() {
		var b Boot
		var received, sent, started int64
		if err := rows.Scan(&b.ID, &received, &sent, &started, &b.Address, &b.Result, &b.Error, &b.Step, &b.Mode, &b.Channel, &b.Release, &b.Number, &b.Duration, &b.Starts, &b.Avoided,
			&b.Sources, &b.Faults, &b.Disk, &b.Servers, &b.Neighbours); err != nil {
			return nil, s.fault(err)
		}
		b.Received, b.Sent, b.Started = fromMilli(received), fromMilli(sent), fromMilli(started)
		list = append(list, b)
	}
	return list, s.fault(rows.Err())
}

// minPrefix is how many digits of a key name it at least. MinAccept is how many must be compared before a key is accepted:
// nobody can make another key with the same ones.
const (
	minPrefix = 8
	MinAccept = 32
)

var keyPrefix = regexp.MustCompile(`^[0-9a-f]{8,64}$`)

// Find returns the whole key that begins with prefix, of 8 hex digits or more. The error wraps fs.ErrNotExist for an
// unknown key, fs.ErrInvalid for an ambiguous or malformed prefix.
func (s *Store) Find(ctx context.Context, prefix string) (key string, err error) {
	if !keyPrefix.MatchString(prefix) {
		return "", refusal.Invalid("machine %.80q: not a key; name its first %d hex digits or more, as `phase-publish machines list` shows them", prefix, minPrefix)
	}
	var n int
	err = s.db.QueryRowContext(ctx, "SELECT count(*), coalesce(min(key), '') FROM machine WHERE key >= ?1 AND key < ?1 || 'g'", prefix).Scan(&n, &key)
	switch {
	case err != nil:
		return "", s.fault(err)
	case n == 0:
		return "", unknown(prefix)
	case n > 1:
		return "", refusal.Invalid("machine %s: %d keys begin with it; name more digits", prefix, n)
	}
	return key, nil
}

func unknown(key string) error {
	return refusal.New(fs.ErrNotExist, "machine %s: no such key; see `phase-publish machines list`", key)
}

// Get returns a machine by its whole key, and its boots, the newest first. The error wraps fs.ErrNotExist for an unknown
// key.
func (s *Store) Get(ctx context.Context, key string) (Machine, []Boot, error) {
	m, id, err := scanMachine(s.db.QueryRowContext(ctx, "SELECT "+machineColumns+" FROM machine m WHERE m.key = ?", key))
	if errors.Is(err, sql.ErrNoRows) {
		return m, nil, unknown(key)
	}
	if err != nil {
		return m, nil, s.fault(err)
	}
	boots, err := s.boots(ctx, id, max(s.Limits.Accepted.PerMachine, s.Limits.Unverified.PerMachine))
	if err == nil && len(boots) > 0 {
		m.Last = &boots[0]
	}
	return m, boots, err
}

// Document returns a document as the machine sent it, and its content. The error wraps fs.ErrNotExist for an unknown key
// or boot.
func (s *Store) Document(ctx context.Context, key, bootID string) (data []byte, d bootreport.Document, err error) {
	err = s.db.QueryRowContext(ctx, "SELECT b.document FROM boot b JOIN machine m ON m.id = b.machine WHERE m.key = ? AND b.boot_id = ?", key, bootID).Scan(&data)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, d, refusal.New(fs.ErrNotExist, "boot %.40q of machine %.80q: no such report; see `phase-publish machines show`", bootID, key)
	}
	if err != nil {
		return nil, d, s.fault(err)
	}
	d, err = bootreport.Open(data)
	return data, d, err
}

// Stats are figures of a database.
type Stats struct {
	Accepted   Usage `json:"accepted"`
	Unverified Usage `json:"unverified"`
	Failed     int   `json:"failed"` // accepted machines whose last boot has failed
}

// Usage is what a room has.
type Usage struct {
	Machines int   `json:"machines"`
	Boots    int   `json:"boots"`
	Bytes    int64 `json:"bytes"`
}

// Stats returns the figures.
func (s *Store) Stats(ctx context.Context) (st Stats, err error) {
	rows, err := s.db.QueryContext(ctx, "SELECT accepted, machines, boots, bytes FROM room")
	if err != nil {
		return st, s.fault(err)
	}
	defer rows.Close()
	for rows.Next() {
		var accepted bool
		var u Usage
		if err := rows.Scan(&accepted, &u.Machines, &u.Boots, &u.Bytes); err != nil {
			return st, s.fault(err)
		}
		if accepted {
			st.Accepted = u
		} else {
			st.Unverified = u
		}
	}
	if err := rows.Err(); err != nil {
		return st, s.fault(err)
	}
	rows.Close()
	err = s.db.QueryRowContext(ctx, "SELECT count(*) FROM machine WHERE accepted = 1 AND result = 'failed'").Scan(&st.Failed)
	return st, s.fault(err)
}

// A Running is how many machines have booted a release last.
type Running struct {
	Accepted         bool
	Channel, Release string // empty if a boot has failed before it chose one
	Machines, Failed int
}

// Running returns what the machines run, the most first: at most 100 releases of each kind of keys.
func (s *Store) Running(ctx context.Context) (list []Running, err error) {
	for _, accepted := range []bool{true, false} {
		if list, err = s.running(ctx, list, accepted); err != nil {
			return nil, s.fault(err)
		}
	}
	return list, nil
}

func (s *Store) running(ctx context.Context, list []Running, accepted bool) ([]Running, error) {
	rows, err := s.db.QueryContext(ctx, `
		SELECT channel, release, count(*), sum(result = 'failed') FROM machine WHERE accepted = ? GROUP BY channel, release
		ORDER BY 3 DESC, channel, release LIMIT 100`, accepted)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		r := Running{Accepted: accepted}
		if err := rows.Scan(&r.Channel, &r.Release, &r.Machines, &r.Failed); err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, rows.Err()
}

// Traffic adds up what the last boots of accepted machines have read, or of the others.
func (s *Store) Traffic(ctx context.Context, accepted bool) (t bootreport.Share, err error) {
	var disk, servers, neighbours float64 // a sum of what hostile machines say may be greater than an int64
	err = s.db.QueryRowContext(ctx, "SELECT total(disk), total(servers), total(neighbours) FROM machine WHERE accepted = ?", accepted).Scan(&disk, &servers, &neighbours)
	whole := func(sum float64) int64 { return int64(min(sum, 1<<62)) }
	return bootreport.Share{Disk: whole(disk), Servers: whole(servers), Neighbours: whole(neighbours)}, s.fault(err)
}

func printable(s string) string { return strings.ToValidUTF8(refusal.Printable(s), "?") }

func printableAll(list []string) []string {
	out := []string{}
	for _, s := range list {
		out = append(out, printable(s))
	}
	return out
}
