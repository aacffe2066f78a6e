package queue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/phaseboot/phaseboot/internal/refusal"
)

// A Nonce is what makes an order unique, until it expires.
type Nonce struct {
	Key     string // of the submitter, in hex
	Value   string // 32 hex digits
	Expires time.Time
}

func (n *Nonce) id() []byte { return []byte(n.Key + n.Value) }

// checkNonce refuses a nonce that was accepted before, or that may have been: one that expires no later than
// the last one that was forgotten, which a clock that was set back may bring again.
func (q *Queue) checkNonce(n *Nonce) error {
	if n == nil {
		return nil
	}
	if !n.Expires.Truncate(time.Second).After(q.pruned) {
		return refusal.New(ErrReplay, "order: expires at %s, and this machine has forgotten the nonces of orders up to %s; sign a new order",
			n.Expires.UTC().Format(time.RFC3339), q.pruned.Format(time.RFC3339))
	}
	known := false
	err := q.db.View(func(tx *bbolt.Tx) error {
		known = tx.Bucket(nonceBucket).Get(n.id()) != nil
		return nil
	})
	switch {
	case err != nil:
		return q.stored(err)
	case known:
		return refusal.New(ErrReplay, "order: its nonce %s was accepted before; sign a new order", n.Value)
	}
	if q.nonces[n.Key] < q.opts.MaxNonces {
		return nil
	}
	if err := q.pruneNonces(q.now()); err != nil {
		return err
	}
	if q.nonces[n.Key] >= q.opts.MaxNonces {
		return refusal.New(ErrFull, "order: %d orders of this submitter have not expired, the limit; sign orders that expire sooner", q.nonces[n.Key])
	}
	return nil
}

func putNonce(tx *bbolt.Tx, n *Nonce) error {
	if n == nil {
		return nil
	}
	at := binary.BigEndian.AppendUint64(nil, uint64(max(n.Expires.Unix(), 0)))
	return errors.Join(
		tx.Bucket(nonceBucket).Put(n.id(), at),
		tx.Bucket(expiryBucket).Put(append(bytes.Clone(at), n.id()...), nil))
}

// errUnchanged ends a transaction that has nothing to write.
var errUnchanged = errors.New("unchanged")

// nonceKeyLength is how many bytes of a nonce's key in the database are the key of the submitter.
const nonceKeyLength = 64

func (q *Queue) loadNonces(tx *bbolt.Tx) error {
	return tx.Bucket(nonceBucket).ForEach(func(id, at []byte) error {
		if len(id) < nonceKeyLength || len(at) != 8 {
			return q.damaged(fmt.Sprintf("nonce %x", id))
		}
		q.nonces[string(id[:nonceKeyLength])]++
		return nil
	})
}

// pruneNonces forgets nonces of orders that have expired, and remembers the last expiry among them. A clock
// that is wrong for some time, and far ahead, therefore refuses no order later. The caller holds q.write.
func (q *Queue) pruneNonces(now time.Time) error {
	forgotten, last := map[string]int{}, q.pruned
	err := q.db.Update(func(tx *bbolt.Tx) error {
		c := tx.Bucket(expiryBucket).Cursor()
		for key, _ := c.First(); key != nil && int64(binary.BigEndian.Uint64(key)) < now.Unix(); key, _ = c.Next() {
			id := bytes.Clone(key[8:])
			if err := errors.Join(tx.Bucket(nonceBucket).Delete(id), c.Delete()); err != nil {
				return err
			}
			forgotten[string(id[:nonceKeyLength])]++
			if at := time.Unix(int64(binary.BigEndian.Uint64(key)), 0).UTC(); at.After(last) {
				last = at
			}
		}
		if len(forgotten) == 0 {
			return errUnchanged
		}
		return putJSON(tx.Bucket(metaBucket), metaKey, meta{Format: format, Created: q.created, Pruned: last})
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	if err != nil {
		return q.stored(err)
	}
	for key, n := range forgotten {
		if q.nonces[key] -= n; q.nonces[key] <= 0 {
			delete(q.nonces, key)
		}
	}
	q.pruned = last
	return nil
}
