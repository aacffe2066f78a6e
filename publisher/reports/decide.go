package reports

import (
	"context"
	"database/sql"
	"time"

	"github.com/phaseboot/phaseboot/internal/refusal"
)

// Accept accepts keys, given whole. The error wraps fs.ErrNotExist for an unknown one, ErrFull if there were more accepted
// keys than Limits.Accepted.Machines; then none is accepted. Accepting a key again changes nothing.
func (s *Store) Accept(ctx context.Context, keys ...string) error {
	now := s.Now().UnixMilli()
	return s.change(ctx, func(tx *sql.Tx) error {
		for _, key := range keys {
			if err := changeOne(ctx, tx, key, "UPDATE machine SET accepted_at = CASE accepted WHEN 1 THEN accepted_at ELSE ?2 END, accepted = 1 WHERE key = ?1", now); err != nil {
				return err
			}
		}
		return s.checkAccepted(ctx, tx)
	})
}

// AcceptAll accepts every key that is unverified now, and returns how many. The error wraps ErrFull as that of Accept.
func (s *Store) AcceptAll(ctx context.Context) (n int64, err error) {
	return n, s.change(ctx, func(tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, "UPDATE machine SET accepted = 1, accepted_at = ? WHERE accepted = 0", s.Now().UnixMilli())
		if err != nil {
			return err
		}
		if n, err = result.RowsAffected(); err != nil {
			return err
		}
		return s.checkAccepted(ctx, tx)
	})
}

// checkAccepted refuses more accepted keys than Limits allow.
func (s *Store) checkAccepted(ctx context.Context, tx *sql.Tx) error {
	var n int
	if err := tx.QueryRowContext(ctx, "SELECT machines FROM room WHERE accepted = 1").Scan(&n); err != nil {
		return err
	}
	if most := s.Limits.Accepted.Machines; n > most {
		return refusal.New(ErrFull, "accept: %d machines would be accepted, at most %d may; forget those that are gone: `phase-publish machines forget`", n, most)
	}
	return nil
}

// Forget removes keys, given whole, with their reports. If a machine reports again its key is unverified. The error wraps
// fs.ErrNotExist for an unknown one; then none is removed.
func (s *Store) Forget(ctx context.Context, keys ...string) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		for _, key := range keys {
			if err := changeOne(ctx, tx, key, "DELETE FROM machine WHERE key = ?1"); err != nil {
				return err
			}
		}
		return nil
	})
}

// change calls f in a transaction, and wakes the watchers.
func (s *Store) change(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return s.fault(err)
	}
	defer tx.Rollback()
	if err := f(tx); err != nil {
		return s.fault(err)
	}
	if err := tx.Commit(); err != nil {
		return s.fault(err)
	}
	s.notify()
	return nil
}

func changeOne(ctx context.Context, tx *sql.Tx, key, query string, more ...any) error {
	result, err := tx.ExecContext(ctx, query, append([]any{key}, more...)...)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return unknown(key)
	}
	return nil
}

// notify wakes the watchers of this process.
func (s *Store) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// pollChanges is how often Watch looks for changes by another process.
const pollChanges = 2 * time.Second

// Watch returns a channel that gets a value after each change of the database, by this process or another one; changes in
// quick succession may be one value. It is closed when ctx ends.
func (s *Store) Watch(ctx context.Context) <-chan struct{} {
	out := make(chan struct{}, 1)
	go func() {
		defer close(out)
		seen := s.version(ctx)
		tick := time.NewTicker(pollChanges)
		defer tick.Stop()
		for {
			s.mu.Lock()
			changed := s.changed
			s.mu.Unlock()
			news := false
			select {
			case <-changed:
				news = true
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			if now := s.version(ctx); news || now != seen {
				seen = now
				select {
				case out <- struct{}{}:
				default: // the reader has not taken the last one
				}
			}
		}
	}()
	return out
}

// version is a figure that changes with the database: the newest key, boot and decision.
func (s *Store) version(ctx context.Context) (v [5]int64) {
	_ = s.db.QueryRowContext(ctx, `
		SELECT (SELECT coalesce(max(id), 0) FROM boot), (SELECT coalesce(max(last_seen), 0) FROM machine WHERE accepted = 0),
			sum(machines), sum(boots), coalesce(sum(bytes + accepted * machines), 0) FROM room`).Scan(&v[0], &v[1], &v[2], &v[3], &v[4])
	return v
}
